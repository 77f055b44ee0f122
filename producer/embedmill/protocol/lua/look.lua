-- Read the model cards and what the live workers say of themselves. KEYS: cards, workers. ARGV: liveness prefix, ttl of
-- a liveness key in ms, workers at most. Gives {cards, worker ids, entries}; an id without an entry is dead.
-- An entry that would outlive its ttl, as after a change of Redis's clock, gets that ttl: a live worker renews it long
-- before, and a dead one is dead by then.
local wrong = wrong_type(KEYS[1], 'hash', KEYS[2], 'zset')
if wrong then return wrong end
local ids, entries, ttl_ms = redis.call('ZREVRANGE', KEYS[2], 0, ARGV[3] - 1), {}, tonumber(ARGV[2])
for i, id in ipairs(ids) do
  local entry = redis.pcall('GET', ARGV[1] .. id)
  entries[i] = type(entry) == 'string' and entry
  if entries[i] then
    local left_ms = redis.call('PTTL', ARGV[1] .. id)
    if left_ms < 0 or left_ms > ttl_ms then redis.call('PEXPIRE', ARGV[1] .. id, ttl_ms) end
  end
end
return {redis.call('HVALS', KEYS[1]), ids, entries}
