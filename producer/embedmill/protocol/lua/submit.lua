-- Make a staged job visible and ring its lane, if there is room for it.
-- ARGV: tokens that may wait of its tenant in the lane (0: any number), share of maxmemory that may be promised, bytes of
-- texts that are not staged yet (above 0 only asks for room), then the record's fields: name, value, ….
-- The record: id digest model lane tenant options rejected n_chunks n_texts n_rows n_tokens row_bytes ttl_ms
-- unfinished_ttl_ms deadline_ms limit_s; and, kept by the scripts: state (active done cancelled) born created_ms ended_ms
-- renewed_ms next back done left_texts left_tokens fingerprint hurt.
-- A job that has lost its texts is submitted anew; one that no sweep would find any more is found again.
-- Gives: submitted, or same, or conflict, or unstaged (the staged texts are not whole: stage them again), or room (it
-- was asked for, and there is), or no room: {tokens or bytes, taken, limit, asked for, tokens before it, tokens/s
-- drained}.
local staged = KEYS[15]
local wrong = wrong_type(job, 'hash', staged, 'hash', lane, 'hash', active, 'zset', queue, 'list', lanes, 'set', turns,
  'zset', ring, 'zset', tenants, 'zset')
if wrong then return wrong end
local max_tokens, share, unstaged_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local record = {}
for i = 4, #ARGV, 2 do record[ARGV[i]] = ARGV[i + 1] end
local n_chunks, n_texts, n_tokens = tonumber(record.n_chunks), tonumber(record.n_texts), tonumber(record.n_tokens)
local n_bytes = n_texts * tonumber(record.row_bytes)
local numbers = redis.call('HMGET', lane, 'chunks', 'texts', 'tokens', 'bytes', 'open', 'clock', 'turn', 'bells',
  'wanted', 'admitted', 'rate', 'counted_ms')
local now = now_us()
local created_ms = math.floor(now / 1000)

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
  local age_ms = created_ms - whole(numbers[12])
  return age_ms >= 0 and age_ms < 30000 and string.match(numbers[11] or '', '^%d+%.?%d*$') or '0'
end

local function no_room(unstaged)
  local waiting = whole(numbers[3])
  local own = math.max(0, math.min(waiting, tonumber(redis.call('ZSCORE', tenants, record.tenant) or 0)))
  if max_tokens > 0 and own > 0 and own + n_tokens > max_tokens then
    return {'tokens', own, max_tokens, n_tokens, own, drain_rate()}
  end
  local info = redis.call('INFO', 'memory')
  local limit = math.floor(tonumber(string.match(info, 'maxmemory:(%d+)')) * share)
  if limit == 0 then return nil end
  local taken = tonumber(string.match(info, 'used_memory:(%d+)')) + promised_bytes()
  if taken + n_bytes + unstaged > limit then
    return {'bytes', taken, limit, n_bytes + unstaged, waiting, drain_rate()}
  end
end

local there = redis.call('HMGET', job, 'digest', 'state', 'lane', 'created_ms', 'tenant')
local is_active = there[1] == record.digest and there[2] == 'active' and there[3] == record.lane
local has_lost_texts = is_active and there[5] == record.tenant and redis.call('EXISTS', texts) == 0
if there[1] and not has_lost_texts then
  redis.call('UNLINK', staged)
  if there[1] ~= record.digest then return 'conflict' end
  if is_active then redis.call('ZADD', active, 'NX', whole(there[4], created_ms), job_id()) end
  return 'same'
end
if unstaged_bytes > 0 then return no_room(unstaged_bytes) or 'room' end
if redis.call('HLEN', staged) ~= n_chunks then
  redis.call('UNLINK', staged)
  return 'unstaged'
end
local refusal = no_room(0)
if refusal then
  redis.call('UNLINK', staged)
  return refusal
end

if has_lost_texts and redis.call('ZREM', active, job_id()) == 1 then
  stop('cancelled')
  numbers = redis.call('HMGET', lane, 'chunks', 'texts', 'tokens', 'bytes', 'open', 'clock', 'turn', 'bells', 'wanted',
    'admitted')
end
-- What somebody left of a job of this id whose record or texts are lost is none of this one's.
redis.call('UNLINK', job, texts, crashes, replies, events)
local fields = {'state', 'active', 'born', string.format('%d', now), 'created_ms', created_ms, 'renewed_ms', created_ms,
  'next', 0, 'done', 0, 'left_texts', n_texts, 'left_tokens', n_tokens}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
local deadline_ms = tonumber(record.deadline_ms)
if deadline_ms > 0 then fields[#fields + 1], fields[#fields + 2] = 'deadline_ms', created_ms + deadline_ms end
redis.call('HSET', job, unpack(fields))
redis.call('SADD', lanes, record.model .. ' ' .. record.lane)
if n_chunks == 0 then
  finish('done', record.ttl_ms)
  return 'submitted'
end
local open, turn = whole(numbers[5]) + n_chunks, whole(numbers[7]) + 1
redis.call('RENAME', staged, texts)
redis.call('ZADD', active, created_ms, job_id())
redis.call('ZADD', ring, turn, job_id())
redis.call('ZINCRBY', tenants, n_tokens, record.tenant)
take_turn(record.tenant, whole(numbers[6]))
local rung = whole(numbers[8])
local count = missing_bells(open, whole(numbers[9], USUAL_BELLS), redis.call('LLEN', queue))
rung = ring_bells(queue, 'LPUSH', count, rung, now)
local weights = weighed(numbers, 1, n_chunks, n_texts, n_tokens, n_bytes)
redis.call('HSET', lane, 'open', open, 'turn', turn, 'bells', rung, 'admitted', sum_of(whole(numbers[10]), n_tokens),
  unpack(weights))
redis.call('PEXPIRE', job, record.unfinished_ttl_ms)
redis.call('PEXPIRE', texts, record.unfinished_ttl_ms)
return 'submitted'
