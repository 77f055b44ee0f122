-- Store a chunk's reply, its dead letters and its event, drop its texts, ring the next chunk: all or nothing.
-- KEYS: the dead letters' is number 13.
-- ARGV: chunk, reply, token, dead letters to keep at most, their ttl in ms, letters….
-- Gives: committed, or duplicate (the first commit wins), or over (cancelled, deleted, expired or another job by now:
-- nothing is written).
local chunk, reply, token = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local dead = KEYS[13]

-- Whoever can write to Redis can use up a stream's ids, so that none is left for a letter: it begins anew then.
local function keep_letter(letter)
  local added = redis.pcall('XADD', dead, 'MAXLEN', ARGV[4], '*', 'l', letter)
  if type(added) ~= 'table' or not added.err then return end
  if not string.find(added.err, 'exhausted') then error(added.err) end
  redis.call('UNLINK', dead)
  redis.call('XADD', dead, '*', 'l', letter)
end

local record = redis.call('HMGET', job, 'state', 'n_chunks', 'rung', 'unfinished_ttl_ms')
if record[1] ~= 'active' or not has_rung(token) then return 'over' end
if redis.call('HDEL', texts, chunk) == 0 then return 'duplicate' end

-- An error here would leave a chunk that has no texts and no reply: what is not there weighs nothing.
local n_texts, n_tokens, weight = 0, 0, redis.call('GETRANGE', weights, chunk * 8, chunk * 8 + 7)
if #weight == 8 then n_texts, n_tokens = struct.unpack('<I4I4', weight) end
redis.call('HINCRBY', job, 'left_chunks', -1)
redis.call('HINCRBY', job, 'left_texts', 0 - n_texts)
redis.call('HINCRBY', job, 'left_tokens', 0 - n_tokens)
leave_lane(1, n_texts, n_tokens)
redis.call('HINCRBY', drain, 'drained', n_tokens)
redis.call('HDEL', claims, chunk, chunk .. ':at')
redis.call('HSET', replies, chunk, reply)
for i = 6, #ARGV do keep_letter(ARGV[i]) end
if #ARGV > 5 then
  redis.call('XTRIM', dead, 'MINID', now_ms() - ARGV[5])
  redis.call('PEXPIRE', dead, ARGV[5])
end
redis.call('XADD', events, '*', 'c', chunk)
if redis.call('HINCRBY', job, 'done', 1) == tonumber(record[2]) then
  finish('done')
  return 'committed'
end
local rung = tonumber(record[3])
if rung < tonumber(record[2]) then
  ring(rung, 'LPUSH')
  redis.call('HSET', job, 'rung', rung + 1)
end
renew(record[4])
return 'committed'
