-- Give back a claim that its holder does not work on any more although its worker lives, and ring the chunk.
-- ARGV: chunk, the claim. Gives 1 if rung.
local chunk, claim = ARGV[1], ARGV[2]
if redis.call('HGET', job, 'state') ~= 'active' or redis.call('HGET', claims, chunk) ~= claim then return 0 end
redis.call('HDEL', claims, chunk, chunk .. ':at')
ring(tonumber(chunk), 'RPUSH')
return 1
