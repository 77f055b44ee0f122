-- Take a lock or keep it, in a full Redis too. KEYS: lock. ARGV: holder, ttl in ms. Gives 1 if held.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
