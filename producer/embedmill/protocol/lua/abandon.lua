-- Give back a claim that its holder does not work on any more although its worker lives, and ring the chunk. The try
-- counts as a loss, of the text that was alone or of the chunk: one that ends so again and again has an end.
-- ARGV: chunk, the claim. Gives 1 if rung.
local chunk, claim = ARGV[1], ARGV[2]
local wrong = wrong_type(job, 'hash', claims, 'hash', crashes, 'hash', queue, 'list')
if wrong then return wrong end
if redis.call('HGET', job, 'state') ~= 'active' or redis.call('HGET', claims, chunk) ~= claim then return 0 end
local at = alone(chunk)
redis.call('HDEL', claims, chunk, chunk .. ':at')
lose(chunk, at)
ring(tonumber(chunk), 'RPUSH')
return 1
