-- The reconciler found a chunk that nobody works on: ring it again, unless that has changed since it looked.
-- ARGV: chunk, the claim it saw ('' for none). Gives 1 if rung.
-- The dead claim stays, and which text was alone under it: the next claimer counts the loss.
local chunk, seen = ARGV[1], ARGV[2]
if redis.call('HGET', job, 'state') ~= 'active' or redis.call('HEXISTS', texts, chunk) == 0 then return 0 end
if (redis.call('HGET', claims, chunk) or '') ~= seen then return 0 end
keep(claims)
ring(tonumber(chunk), 'RPUSH')
return 1
