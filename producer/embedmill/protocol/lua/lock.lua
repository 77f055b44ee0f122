-- Take a lock or keep it, in a full Redis too. KEYS: lock. ARGV: holder, ttl in ms. Gives 1 if held.
-- A lock that would outlive its ttl, as after a change of Redis's clock, gets that ttl: its holder may be dead.
local wrong = wrong_type(KEYS[1], 'string')
if wrong then return wrong end
local holder, ttl_ms = redis.call('GET', KEYS[1]), tonumber(ARGV[2])
if holder and holder ~= ARGV[1] then
  local left_ms = redis.call('PTTL', KEYS[1])
  if left_ms < 0 or left_ms > ttl_ms then redis.call('PEXPIRE', KEYS[1], ttl_ms) end
  return 0
end
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl_ms)
return 1
