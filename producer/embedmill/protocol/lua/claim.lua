-- Take a chunk of a lane for a worker: of the tenant that is next, of its job that is next.
-- KEYS: held, lane, queue, turns, flights, then queues that go first: nothing new is claimed while one has a message.
-- ARGV: token, worker id, fingerprint, model, lane, prefix of jobs, prefix of the lane's rings, pid of the child (for
-- people who look: it decides nothing), tokens that a tenant may have under work (0: any number), 1 for only jobs that are
-- pinned to the fingerprint, then tenants and their weights: name, weight, ….
-- Gives {what, …}:
--   {'none'}                    nothing waits that may be claimed now
--   {'other', fingerprint}      all that was looked at is pinned to another fingerprint; a new doorbell is in the queue
--   {'late', job, chunk, tenant, texts, options, ms since submission, ms of its deadline, birth}      claimed, but too late
--   {'work', job, chunk, tenant, texts, options, ms waited, limit in s, {crash fields}, chunks that still wait, birth}
-- The same token again is given the same chunk.
local held, lane, queue, turns, flights = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, worker, fingerprint, model, lane_name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local jobs, rings, pid, max_flight, is_for_pinned = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'

-- Jobs that one claim looks at, in all and of one tenant, chunks that it passes over because they are done, and ms between
-- two renewals of a life.
local MAX_LOOKS, LOOKS_A_TENANT, MAX_STEPS, RENEWAL_MS = 200, 20, 500, 3600000

local FIELDS = {'state', 'model', 'lane', 'tenant', 'fingerprint', 'next', 'back', 'n_chunks', 'born', 'options',
  'created_ms', 'deadline_ms', 'renewed_ms', 'unfinished_ttl_ms', 'limit_s', 'hurt'}

local entry = redis.pcall('HGET', held, token)
local numbers = redis.pcall('HMGET', lane, 'open', 'clock', 'turn', 'bells', 'wanted')
local order = redis.pcall('ZRANGE', turns, 0, 7, 'WITHSCORES')
local n_bells = redis.pcall('LLEN', queue)
local wrong = misread(entry, held, 'hash', numbers, lane, 'hash', order, turns, 'zset', n_bells, queue, 'list')
if wrong then return wrong end
local open, clock, turn, rung = whole(numbers[1]), whole(numbers[2]), whole(numbers[3]), whole(numbers[4])
local now, looks, n_gone, pinned = now_us(), 0, 0, nil

-- A job's record by field, if it is one of this lane and tenant that has work; an empty tenant: of any.
local function read_job(id, tenant)
  local values = redis.pcall('HMGET', jobs .. id, unpack(FIELDS))
  if values.err then return nil end
  local record = {}
  for i, name in ipairs(FIELDS) do record[name] = values[i] end
  local is_ours = record.state == 'active' and record.model == model and record.lane == lane_name
  return is_ours and (tenant == nil or owner(record.tenant) == tenant) and record or nil
end

local function answer(id, chunk, record, payload)
  local created = whole(record.created_ms, math.floor(now / 1000))
  local waited_ms, deadline = math.max(0, math.floor(now / 1000) - created), whole(record.deadline_ms)
  local given = {id, chunk, owner(record.tenant), payload, record.options or '', waited_ms}
  if deadline > 0 and math.floor(now / 1000) > deadline then
    given[7], given[8] = math.max(0, deadline - created), birth(record.born)
    return {'late', unpack(given)}
  end
  local hurt = record.hurt and redis.pcall('HGETALL', jobs .. id .. ':crashes') or {}
  given[7], given[8], given[9] = record.limit_s or '', hurt.err and {} or hurt, open
  given[10] = birth(record.born)
  return {'work', unpack(given)}
end

-- The next chunk of a job that has texts, and those texts; or nothing, and whether there may be more after so many that
-- are done. The record is changed, not yet written.
local function next_chunk(id, record)
  local n_chunks = math.min(whole(record.n_chunks), MAX_CHUNKS)
  for _ = 1, MAX_STEPS do
    local first, others = string.match(record.back or '', '^(%d+),?(.*)$')
    local chunk = first and tonumber(first) or whole(record.next)
    if first then
      record.back = others
    else
      record.back = ''
      if chunk >= n_chunks then return nil, nil, false end
      record.next = tostring(chunk + 1)
    end
    local payload = redis.pcall('HGET', jobs .. id .. ':texts', chunk)
    if type(payload) == 'string' then return chunk, payload end
  end
  return nil, nil, true
end

-- The next job of a tenant that this worker can serve, its record, chunk and texts. Others go to the end of the ring.
local function next_job(tenant)
  local ring, passed, n_looks = rings .. tenant, {}, 0
  while looks < MAX_LOOKS and n_looks < LOOKS_A_TENANT do
    looks, n_looks = looks + 1, n_looks + 1
    local ids = redis.pcall('ZRANGE', ring, 0, 1)
    local id = not ids.err and ids[1]
    if not id then
      if not ids.err then n_gone = n_gone + redis.call('ZREM', turns, tenant) end
      return nil
    end
    local record = read_job(id, tenant)
    if record and (record.fingerprint or is_for_pinned) and record.fingerprint ~= fingerprint then
      pinned = record.fingerprint or ''
      if passed[id] then return nil end
      passed[id], turn = true, turn + 1
      redis.call('ZADD', ring, 'XX', turn, id)
    else
      local chunk, payload, has_more
      if record then chunk, payload, has_more = next_chunk(id, record) end
      if chunk then return {id = id, record = record, chunk = chunk, payload = payload, ring = ring, has_others = ids[2]} end
      if has_more then
        redis.call('HSET', jobs .. id, 'next', record.next, 'back', record.back)
      else
        redis.call('ZREM', ring, id)
      end
    end
  end
end

local mine = read_entry(entry)
if mine then
  local record = read_job(mine.id)
  local payload = record and birth(record.born) == mine.born and redis.pcall('HGET', jobs .. mine.id .. ':texts', mine.chunk)
  if mine.worker == worker and type(payload) == 'string' then return answer(mine.id, mine.chunk, record, payload) end
  return {'none'}
end

if #KEYS > 5 and redis.call('EXISTS', unpack(KEYS, 6)) > 0 then return {'none'} end
redis.call('HDEL', held, token .. ':at')
local found, tag
local seen = 0
while #order > 0 and not found and looks < MAX_LOOKS do
  for i = 1, #order, 2 do
    local tenant = order[i]
    local flight = max_flight > 0 and tonumber(redis.pcall('ZSCORE', flights, tenant) or 0) or 0
    if not (flight > 0 and flight >= max_flight) then found = next_job(tenant) end
    if found then
      found.tenant, tag = tenant, tonumber(order[i + 1]) or 0
      break
    end
  end
  seen = seen + #order / 2
  if not found then order = redis.call('ZRANGE', turns, seen - n_gone, seen - n_gone + 31, 'WITHSCORES') end
end

if not found then
  if pinned or looks >= MAX_LOOKS then
    redis.call('HSET', lane, 'turn', turn, 'bells', ring_bells(queue, 'LPUSH', 1, rung, now))
    return pinned and {'other', pinned} or {'none'}
  end
  if max_flight == 0 and open > 0 then redis.call('HSET', lane, 'open', 0) end
  return {'none'}
end

local record, key = found.record, jobs .. found.id
local n_texts, n_tokens = 0, 0
if #found.payload >= 8 then n_texts, n_tokens = struct.unpack('<I4I4', found.payload) end
turn, open = turn + 1, math.max(0, open - 1)
if count_open(record.next, record.back, record.n_chunks) == 0 then
  redis.call('ZREM', found.ring, found.id)
elseif found.has_others then
  redis.call('ZADD', found.ring, turn, found.id)
end
-- A tenant that is alone has nobody to wait for. One that was kept back by its limit, or served by no worker here, has
-- saved up nothing.
if tag ~= tag or tag > MOST then tag = clock end
clock = math.max(clock, tag)
if #order > 2 then
  local weight = 1
  for i = 11, #ARGV, 2 do
    if ARGV[i] == found.tenant then weight = tonumber(ARGV[i + 1]) end
  end
  redis.call('ZADD', turns, string.format('%d', clock + math.max(1, n_tokens / weight)), found.tenant)
end
local fields = {'next', record.next or 0, 'back', record.back or ''}
if not record.fingerprint then fields[5], fields[6] = 'fingerprint', fingerprint end
redis.call('HSET', key, unpack(fields))
redis.call('HSET', held, token, table.concat({found.id, found.chunk, n_texts, n_tokens, birth(record.born), worker, pid, model,
  lane_name, found.tenant}, ' '))
if max_flight > 0 then redis.pcall('ZINCRBY', flights, n_tokens, found.tenant) end
-- Where tenants have a limit, much of what waits may be kept back: doorbells for it would be answered for nothing.
local missing = missing_bells(open, whole(numbers[5], USUAL_BELLS), n_bells)
rung = ring_bells(queue, 'LPUSH', max_flight > 0 and math.min(missing, 1) or missing, rung, now)
redis.call('HSET', lane, 'open', open, 'clock', string.format('%d', clock), 'turn', turn, 'bells', rung)
if math.abs(now / 1000 - whole(record.renewed_ms)) > RENEWAL_MS then
  redis.call('HSET', key, 'renewed_ms', math.floor(now / 1000))
  for _, part in ipairs({'', ':texts', ':crashes', ':replies', ':events'}) do
    redis.call('PEXPIRE', key .. part, math.max(1, whole(record.unfinished_ttl_ms, USUAL_TTL_MS)))
  end
end
return answer(found.id, found.chunk, record, found.payload)
