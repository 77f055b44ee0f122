-- Store a chunk's reply, its dead letters and its event, and drop its texts: all or nothing.
-- KEYS: the dead letters' is number 15.
-- ARGV: token, chunk, birth of the job that it was claimed of, reply ('': HSETNX has stored it, in the same transaction),
-- tokens that a tenant may have under work (0: any number), dead letters to keep at most, their ttl in ms, letters….
-- Gives: committed, or unstored (there is no reply: send it with this call), or duplicate (the first commit wins), or over
-- (the token was given back or holds another chunk, or its job is cancelled, deleted, expired or another one by now:
-- nothing is written).
-- What is left of the job is what has texts, and what is done is what has a reply: its numbers only repeat that.
local token, chunk, born, reply, dead = ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[15]
local entry = redis.pcall('HGET', held, token)
local record = redis.pcall('HMGET', job, 'state', 'born', 'done', 'left_texts', 'left_tokens', 'row_bytes', 'ttl_ms',
  'n_chunks')
local n_left = redis.pcall('HLEN', texts)
local numbers = redis.pcall('HMGET', lane, 'chunks', 'texts', 'tokens', 'bytes', 'drained', 'open', 'bells')
-- Nothing is written, and nothing stays that was stored for it: a reply of a chunk that is not done, or of none.
local function over()
  local is_kept = (record[1] == 'active' or record[1] == 'done') and tonumber(chunk) < whole(record[8])
  if not is_kept or redis.call('HEXISTS', texts, chunk) == 1 then redis.pcall('HDEL', replies, chunk) end
  return 'over'
end

local wrong = misread(entry, held, 'hash', record, job, 'hash', n_left, texts, 'hash', numbers, lane, 'hash')
if not wrong and n_left <= 1 then wrong = wrong_type(active, 'zset') end
if not wrong and #ARGV > 7 then wrong = wrong_type(dead, 'stream') end
if wrong then
  if redis.pcall('PTTL', replies) == -1 then redis.pcall('PEXPIRE', replies, USUAL_TTL_MS) end
  return wrong
end
if reply == '' and redis.pcall('HEXISTS', replies, chunk) ~= 1 then return 'unstored' end
local mine = read_entry(entry)
if not is_of(mine, chunk, born) then return over() end
redis.call('HDEL', held, token, token .. ':at')
if tonumber(ARGV[5]) > 0 then
  redis.pcall('ZINCRBY', flights, -mine.n_tokens, mine.tenant)
  -- The tenant may have been kept back, and doorbells that found only such ones are gone.
  if whole(numbers[6]) > 0 and redis.pcall('LLEN', queue) == 0 then
    redis.call('HSET', lane, 'bells', ring_bells(queue, 'LPUSH', 1, whole(numbers[7]), now_us()))
  end
end
if record[1] ~= 'active' or birth(record[2]) ~= mine.born then return over() end
if redis.call('HDEL', texts, mine.chunk) == 0 then
  keep(replies)
  return 'duplicate'
end

for i = 8, #ARGV do put('XADD', dead, 'MAXLEN', ARGV[6], '*', 'l', ARGV[i]) end
if #ARGV > 7 then
  redis.call('XTRIM', dead, 'MINID', math.max(0, now_ms() - ARGV[7]))
  redis.call('PEXPIRE', dead, ARGV[7])
end
if reply ~= '' then put('HSET', replies, mine.chunk, reply) end
put('XADD', events, '*', 'c', mine.chunk)
local left_texts, left_tokens, n_done = whole(record[4]), whole(record[5]), whole(record[3]) + 1
local n_texts, n_tokens = mine.n_texts, mine.n_tokens
if n_left > 1 then
  redis.call('HSET', job, 'done', n_done, 'left_texts', math.max(0, left_texts - n_texts), 'left_tokens',
    math.max(0, left_tokens - n_tokens))
  if n_done == 1 then
    keep(replies)
    keep(events)
  end
else
  -- The last chunk takes off all that is left.
  n_texts, n_tokens, n_done = left_texts, left_tokens, redis.call('HLEN', replies)
  redis.call('HSET', job, 'done', n_done, 'n_chunks', n_done)
  finish('done', record[7])
end
redis.call('HSET', lane, 'drained', sum_of(whole(numbers[5]), n_tokens),
  unpack(weighed(numbers, -1, 1, n_texts, n_tokens, n_texts * whole(record[6]))))
redis.pcall('ZINCRBY', tenants, -n_tokens, mine.tenant)
return 'committed'
