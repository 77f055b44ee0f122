-- Give back the chunk of a token, as the next one of its lane. ARGV: token, why, chunk, birth of the job that it was
-- claimed of. A token that holds another chunk by now keeps it. Why:
--   crashed      its child died of it: a crash of the chunk, and of the text that was alone
--   lost         its child was killed, its worker died, or nobody works on it: a loss of the one or the other
--   refused      Redis refused its reply for another key's sake: counts as nothing, as no text is to blame
-- A crash when no text was alone counts as a loss besides, so that nothing goes on for ever.
-- Gives 1 if the chunk waits again, 0 if the token holds none, or its chunk is done or its job over.
local token, why = ARGV[1], ARGV[2]
local wrong = wrong_type(job, 'hash', texts, 'hash', crashes, 'hash', held, 'hash', lane, 'hash', queue, 'list')
if wrong then return wrong end
local found = redis.call('HMGET', held, token, token .. ':at')
local mine, at = read_entry(found[1]), string.match(found[2] or '', '^%d+$')
if not is_of(mine, ARGV[3], ARGV[4]) then return 0 end
redis.call('HDEL', held, token, token .. ':at')
if redis.pcall('ZSCORE', flights, mine.tenant) then redis.pcall('ZINCRBY', flights, -mine.n_tokens, mine.tenant) end
local record = redis.call('HMGET', job, 'state', 'born', 'back')
if record[1] ~= 'active' or birth(record[2]) ~= mine.born then return 0 end
if redis.call('HEXISTS', texts, mine.chunk) == 0 then return 0 end

-- Count one more under a name of the job's crashes.
local function count(name)
  redis.call('HSET', job, 'hurt', 1)
  redis.call('HSET', crashes, name, whole(redis.call('HGET', crashes, name)) + 1)
  keep(crashes)
end

local place = mine.chunk .. (at and ':' .. at or '')
if why == 'crashed' then count(mine.chunk) end
if why == 'crashed' and at then
  count(place)
elseif why ~= 'refused' then
  count(place .. ':lost')
end
local others = string.match(record[3] or '', '^[%d,]+$')
redis.call('HSET', job, 'back', mine.chunk .. (others and ',' .. others or ''))
local numbers = redis.call('HMGET', lane, 'open', 'clock', 'bells')
redis.pcall('ZADD', ring, 0, mine.id)
take_turn(mine.tenant, whole(numbers[2]))
redis.call('HSET', lane, 'open', sum_of(whole(numbers[1]), 1), 'bells',
  ring_bells(queue, 'RPUSH', 1, whole(numbers[3]), now_us()))
return 1
