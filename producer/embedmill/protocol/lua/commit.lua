-- Store a chunk's reply, its dead letters and its event, drop its texts, ring the next chunk: all or nothing.
-- KEYS: the dead letters' is number 13.
-- ARGV: chunk, reply, token, dead letters to keep at most, their ttl in ms, letters….
-- Gives: committed, or duplicate (the first commit wins), or over (cancelled, deleted, expired or another job by now:
-- nothing is written).
-- What is left of the job is what has texts, and what is done is what has a reply: its numbers only repeat that.
local chunk, reply, token = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local dead = KEYS[13]
local wrong = wrong_type(job, 'hash', texts, 'hash', weights, 'string', claims, 'hash', replies, 'hash', events, 'stream',
  lane, 'hash', active, 'zset', queue, 'list', drain, 'hash')
if not wrong and #ARGV > 5 then wrong = wrong_type(dead, 'stream') end
if wrong then return wrong end
local record = redis.call('HMGET', job, 'state', 'first_ring', 'rings', 'rung', 'left_texts', 'left_tokens', 'row_bytes',
  'created_ms', 'unfinished_ttl_ms')
if record[1] ~= 'active' or not has_rung(token, record[2], record[3]) then return 'over' end
if redis.call('HEXISTS', texts, chunk) == 0 then return 'duplicate' end
local n_left, left_texts, left_tokens = redis.call('HLEN', texts) - 1, whole(record[5]), whole(record[6])
-- The last chunk takes off all that is left; one without a weight takes off nothing.
local n_texts, n_tokens = left_texts, left_tokens
if n_left > 0 then
  local weight = redis.call('GETRANGE', weights, chunk * 8, chunk * 8 + 7)
  n_texts, n_tokens = 0, 0
  if #weight == 8 then n_texts, n_tokens = struct.unpack('<I4I4', weight) end
end

redis.call('PERSIST', drain)
for i = 6, #ARGV do append(dead, 'MAXLEN', ARGV[4], '*', 'l', ARGV[i]) end
if #ARGV > 5 then
  redis.call('XTRIM', dead, 'MINID', math.max(0, now_ms() - ARGV[5]))
  redis.call('PEXPIRE', dead, ARGV[5])
end
redis.call('HDEL', texts, chunk)
redis.call('HDEL', claims, chunk, chunk .. ':at')
redis.call('HSET', replies, chunk, reply)
local n_done = redis.call('HLEN', replies)
redis.call('HSET', job, 'done', n_done, 'n_chunks', n_done + n_left, 'left_chunks', n_left,
  'left_texts', math.max(0, left_texts - n_texts), 'left_tokens', math.max(0, left_tokens - n_tokens))
weigh(-1, 1, n_texts, n_tokens, whole(record[7]), whole(record[8]))
redis.call('HSET', drain, 'drained', sum_of(whole(redis.call('HGET', drain, 'drained')), n_tokens))
append(events, '*', 'c', chunk)
if n_left == 0 then
  finish('done')
  return 'committed'
end

find_again(record[8])
-- The next chunk, as a rule; after garbage in its number perhaps one far behind it, which the sweep finds.
local rung = whole(record[4])
for _ = 1, 1000 do
  if rung >= n_done + n_left then break end
  rung = rung + 1
  if redis.call('HEXISTS', texts, rung - 1) == 1 then
    ring(rung - 1, 'LPUSH')
    break
  end
end
redis.call('HSET', job, 'rung', rung)
renew(math.max(1, whole(record[9], USUAL_TTL_MS)))
return 'committed'
