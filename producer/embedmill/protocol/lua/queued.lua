-- Read a page of a queue's doorbells. KEYS: queue. ARGV: index of the first, of the last.
-- Gives {messages in the page, id, id, …}; a message that is no doorbell has no id.
local wrong = wrong_type(KEYS[1], 'list')
if wrong then return wrong end
local messages, found = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]), {}
found[1] = #messages
for _, message in ipairs(messages) do
  local _, at = string.find(message, '"id": "', 1, true)
  found[#found + 1] = at and string.match(message, '^([%w._-]+:%d+):%d+"', at + 1)
end
return found
