-- The reconciler found a chunk that nobody works on: ring it again, unless that has changed since it looked.
-- ARGV: chunk, the claim it saw ('' for none). Gives 1 if rung.
-- The dead claim stays, and which text was alone under it: the next claimer counts the loss.
local chunk, seen = ARGV[1], ARGV[2]
local wrong = wrong_type(job, 'hash', texts, 'hash', claims, 'hash', queue, 'list')
if wrong then return wrong end
local record = redis.call('HMGET', job, 'state', 'rung')
if record[1] ~= 'active' or redis.call('HEXISTS', texts, chunk) == 0 then return 0 end
if (redis.call('HGET', claims, chunk) or '') ~= seen then return 0 end
redis.call('PERSIST', queue)
keep(claims)
if whole(record[2]) <= tonumber(chunk) then redis.call('HSET', job, 'rung', chunk + 1) end
ring(tonumber(chunk), 'RPUSH')
return 1
