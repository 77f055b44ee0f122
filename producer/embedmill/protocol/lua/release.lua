-- A child died or was stopped under a chunk: give the claim back, count the crash, make the chunk the next one rung.
-- ARGV: chunk, token, how: 'crashed' or 'killed'. A crash is the chunk's, and the text's that was alone; a kill is a
-- loss of one or the other. A crash when no text was alone counts as a loss besides, so that nothing goes on for ever.
-- Gives 1 if the chunk was rung, 0 if it is committed or held by somebody else.
local chunk, token = ARGV[1], ARGV[2]
local wrong = wrong_type(job, 'hash', texts, 'hash', claims, 'hash', crashes, 'hash', queue, 'list')
if wrong then return wrong end
local record = redis.call('HMGET', job, 'state', 'first_ring', 'rings')
if record[1] ~= 'active' or redis.call('HEXISTS', texts, chunk) == 0 then return 0 end
if not has_rung(token, record[2], record[3]) then return 0 end
local claim = redis.call('HGET', claims, chunk)
if claim and string.match(claim, '^%S+ (%S+)') ~= token then return 0 end
redis.call('PERSIST', queue)
if claim then
  local at = alone(chunk)
  redis.call('HDEL', claims, chunk, chunk .. ':at')
  if ARGV[3] == 'crashed' then count_crash(chunk) end
  if at and ARGV[3] == 'crashed' then count_crash(chunk .. ':' .. at) else lose(chunk, at) end
end
ring(tonumber(chunk), 'RPUSH')
return 1
