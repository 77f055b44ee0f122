-- Renew a worker's liveness key, in a full Redis too. KEYS: liveness key, workers. ARGV: entry, ttl in ms, worker id.
local wrong = wrong_type(KEYS[1], 'string', KEYS[2], 'zset')
if wrong then return wrong end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now_ms(), ARGV[3])
return 1
