-- Make a staged job visible and ring its first chunks, if there is room for it.
-- ARGV: record (msgpack map of the fields below), weights, chunks to ring ahead, tokens that may wait in the lane (0:
-- any number), share of maxmemory that may be promised, bytes of texts that are not staged yet: above 0 only asks for
-- room.
-- The record: v id digest model lane options rejected n_chunks n_texts n_tokens row_bytes ttl_ms unfinished_ttl_ms
-- deadline_ms limit_s; and, kept by the scripts: state (active done cancelled) created_ms ended_ms done rung first_ring
-- rings left_chunks left_texts left_tokens fingerprint.
-- Gives: submitted, or same, or conflict, or unstaged (the staged texts are not whole: stage them again), or room (it
-- was asked for, and there is), or no room: {tokens or bytes, taken, limit, asked for, tokens before it, tokens/s
-- drained}.
local staged = KEYS[13]
local record = cmsgpack.unpack(ARGV[1])

-- Bytes that the vectors of all unfinished jobs of the namespace will take.
local function promised_bytes()
  local sum = 0
  for _, name in ipairs(redis.call('SMEMBERS', lanes)) do
    local key = string.sub(lanes, 1, -2) .. ':' .. string.gsub(name, ' ', ':')
    sum = sum + math.max(0, tonumber(redis.call('HGET', key, 'bytes')) or 0)
  end
  return sum
end

-- Tokens/s at the last sweep. One that no reconciler has looked at for half a minute is past: the workers are gone.
local function drain_rate()
  local seen = redis.call('HMGET', drain, 'rate', 'counted_ms')
  return seen[1] and seen[2] and now_ms() - seen[2] < 30000 and seen[1] or '0'
end

local function no_room(unstaged_bytes)
  local waiting = math.max(0, tonumber(redis.call('HGET', lane, 'tokens')) or 0)
  local max_tokens = tonumber(ARGV[4])
  if max_tokens > 0 and waiting > 0 and waiting + record.n_tokens > max_tokens then
    return {'tokens', waiting, max_tokens, record.n_tokens, waiting, drain_rate()}
  end
  local info = redis.call('INFO', 'memory')
  local limit = math.floor(tonumber(string.match(info, 'maxmemory:(%d+)')) * tonumber(ARGV[5]))
  local taken = tonumber(string.match(info, 'used_memory:(%d+)')) + promised_bytes()
  local asked = record.n_texts * record.row_bytes + unstaged_bytes
  if limit > 0 and taken + asked > limit then return {'bytes', taken, limit, asked, waiting, drain_rate()} end
end

local digest = redis.call('HGET', job, 'digest')
if digest then
  redis.call('UNLINK', staged)
  return digest == record.digest and 'same' or 'conflict'
end
local unstaged_bytes = tonumber(ARGV[6])
if unstaged_bytes > 0 then return no_room(unstaged_bytes) or 'room' end
if redis.call('HLEN', staged) ~= record.n_chunks then
  redis.call('UNLINK', staged)
  return 'unstaged'
end
local refusal = no_room(0)
if refusal then
  redis.call('UNLINK', staged)
  return refusal
end

local now = now_ms()
for field, value in pairs(record) do redis.call('HSET', job, field, value) end
-- Rings are counted from the microsecond of submission, so that a job of the same id, deleted before, has had none.
local time = redis.call('TIME')
local first_ring = time[1] * 1000000 + time[2]
redis.call('HSET', job, 'state', 'active', 'created_ms', now, 'done', 0, 'rung', 0,
  'first_ring', first_ring, 'rings', first_ring,
  'left_chunks', record.n_chunks, 'left_texts', record.n_texts, 'left_tokens', record.n_tokens)
if record.deadline_ms > 0 then redis.call('HSET', job, 'deadline_ms', now + record.deadline_ms) end
redis.call('SADD', lanes, record.model .. ' ' .. record.lane)
redis.call('ZADD', active, now, record.id)
redis.call('HINCRBY', lane, 'chunks', record.n_chunks)
redis.call('HINCRBY', lane, 'texts', record.n_texts)
redis.call('HINCRBY', lane, 'tokens', record.n_tokens)
redis.call('HINCRBY', lane, 'bytes', record.n_texts * record.row_bytes)
if record.n_chunks == 0 then
  finish('done')
  return 'submitted'
end
redis.call('RENAME', staged, texts)
redis.call('SET', weights, ARGV[2])
local rung = math.min(record.n_chunks, tonumber(ARGV[3]))
for chunk = 0, rung - 1 do ring(chunk, 'LPUSH') end
redis.call('HSET', job, 'rung', rung)
renew(record.unfinished_ttl_ms)
return 'submitted'
