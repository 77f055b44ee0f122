-- Forget a lane that holds nothing. KEYS: lane, active, drain, queue, lanes. ARGV: its name among the lanes, what stands
-- before a job's id in its record, doorbells to look at.
-- Gives 1 if it is forgotten. A job that is submitted at the same time comes before, and is found here, or after, and
-- begins the lane anew. Doorbells of jobs that are over are forgotten, too, a page in each call; one of a job that is not
-- over, whose place among the active ones was lost, keeps the lane.
local lane, active, drain, queue, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local wrong = wrong_type(lane, 'hash', active, 'zset', drain, 'hash', queue, 'list', lanes, 'set')
if wrong then return wrong end
if redis.call('EXISTS', active) == 1 then return 0 end
local messages = redis.call('LRANGE', queue, 0, ARGV[3] - 1)
for _, message in ipairs(messages) do
  local _, at = string.find(message, '"id": "', 1, true)
  local id = at and string.match(message, '^([%w._-]+):%d+:%d+"', at + 1)
  if id and redis.pcall('HGET', ARGV[2] .. id, 'state') == 'active' then return 0 end
end
if #messages > 0 then redis.call('LTRIM', queue, #messages, -1) end
if redis.call('LLEN', queue) > 0 then return 0 end
redis.call('SREM', lanes, ARGV[1])
redis.call('UNLINK', lane, drain)
return 1
