-- Forget a lane that holds nothing. KEYS: lane, active, queue, lanes, turns, tenants, flights. ARGV: its name among the
-- lanes, prefix of its rings. Gives 1 if it is forgotten. A job that is submitted at the same time comes before, and is found here, or after,
-- and begins the lane anew. Doorbells of jobs that are over say nothing.
local lane, active, queue, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local wrong = wrong_type(lane, 'hash', active, 'zset', queue, 'list', lanes, 'set')
if wrong then return wrong end
if redis.call('EXISTS', active) == 1 or whole(redis.call('HGET', lane, 'open')) > 0 then return 0 end
redis.call('SREM', lanes, ARGV[1])
for _, key in ipairs({KEYS[5], KEYS[6]}) do
  local members = redis.pcall('ZRANGE', key, 0, -1)
  for _, tenant in ipairs(members.err and {} or members) do redis.call('UNLINK', ARGV[2] .. tenant) end
end
redis.call('UNLINK', lane, queue, KEYS[5], KEYS[6], KEYS[7])
return 1
