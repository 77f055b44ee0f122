-- Make a staged job visible and ring its first chunks, if there is room for it.
-- ARGV: record (msgpack map of the fields below), weights, chunks to ring ahead, tokens that may wait in the lane (0:
-- any number), share of maxmemory that may be promised, bytes of texts that are not staged yet: above 0 only asks for
-- room.
-- The record: v id digest model lane options rejected n_chunks n_texts n_tokens row_bytes ttl_ms unfinished_ttl_ms
-- deadline_ms limit_s; and, kept by the scripts: state (active done cancelled) created_ms ended_ms done rung first_ring
-- rings left_chunks left_texts left_tokens fingerprint; and, kept by the sweep: low, below which all is done.
-- A job that has lost its texts is submitted anew; one that no sweep would find any more is found again.
-- Gives: submitted, or same, or conflict, or unstaged (the staged texts are not whole: stage them again), or room (it
-- was asked for, and there is), or no room: {tokens or bytes, taken, limit, asked for, tokens before it, tokens/s
-- drained}.
local staged = KEYS[13]
local wrong = wrong_type(job, 'hash', staged, 'hash', lane, 'hash', active, 'zset', queue, 'list', lanes, 'set', drain, 'hash')
if wrong then return wrong end
local record = cmsgpack.unpack(ARGV[1])

-- Bytes that the vectors of all unfinished jobs of the namespace will take.
local function promised_bytes()
  local sum = 0
  for _, name in ipairs(redis.call('SMEMBERS', lanes)) do
    local key = string.sub(lanes, 1, -2) .. ':' .. string.gsub(name, ' ', ':')
    local bytes = redis.pcall('HGET', key, 'bytes')
    if type(bytes) == 'string' then sum = sum + whole(bytes) end
  end
  return sum
end

-- Tokens/s at the last sweep. One that no reconciler has looked at for half a minute is past: the workers are gone.
local function drain_rate()
  local seen = redis.call('HMGET', drain, 'rate', 'counted_ms')
  local age_ms = now_ms() - whole(seen[2])
  return age_ms >= 0 and age_ms < 30000 and string.match(seen[1] or '', '^%d+%.?%d*$') or '0'
end

local function no_room(unstaged_bytes)
  local waiting = whole(redis.call('HGET', lane, 'tokens'))
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

local there = redis.call('HMGET', job, 'digest', 'state', 'lane', 'created_ms', 'left_chunks', 'left_texts', 'left_tokens',
  'row_bytes')
local is_active = there[1] == record.digest and there[2] == 'active' and there[3] == record.lane
local has_lost_texts = is_active and redis.call('EXISTS', texts) == 0
if there[1] and not has_lost_texts then
  redis.call('UNLINK', staged)
  if there[1] ~= record.digest then return 'conflict' end
  if is_active then find_again(there[4]) end
  return 'same'
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

if has_lost_texts and redis.call('ZREM', active, job_id()) == 1 then
  weigh(-1, whole(there[5]), whole(there[6]), whole(there[7]), whole(there[8]), whole(there[4]))
end
-- What somebody left of a job of this id whose record or texts are lost is none of this one's.
if redis.call('EXISTS', job, texts, weights, claims, crashes, replies, events) > 0 then
  redis.call('UNLINK', job, texts, weights, claims, crashes, replies, events)
end
local now = now_us()
-- Rings are counted from the microsecond of submission, so that a job of the same id, deleted before, has had none.
local first_ring, created_ms = string.format('%d', now), math.floor(now / 1000)
for field, value in pairs(record) do redis.call('HSET', job, field, value) end
redis.call('HSET', job, 'state', 'active', 'created_ms', created_ms, 'done', 0, 'rung', 0,
  'first_ring', first_ring, 'rings', first_ring,
  'left_chunks', record.n_chunks, 'left_texts', record.n_texts, 'left_tokens', record.n_tokens)
if record.deadline_ms > 0 then redis.call('HSET', job, 'deadline_ms', created_ms + record.deadline_ms) end
redis.call('SADD', lanes, record.model .. ' ' .. record.lane)
if record.n_chunks == 0 then
  finish('done')
  return 'submitted'
end
redis.call('ZADD', active, created_ms, job_id())
weigh(1, record.n_chunks, record.n_texts, record.n_tokens, record.row_bytes, created_ms)
redis.call('RENAME', staged, texts)
redis.call('SET', weights, ARGV[2])
local rung = math.min(record.n_chunks, tonumber(ARGV[3]))
for chunk = 0, rung - 1 do ring(chunk, 'LPUSH') end
redis.call('HSET', job, 'rung', rung)
renew(record.unfinished_ttl_ms)
return 'submitted'
