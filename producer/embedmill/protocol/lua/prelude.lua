-- Stands before every script. KEYS are those of keys.Keyspace.of_job, in its order, but in announce, beat, claim, lock,
-- look, retire, settle, survey and top_up.lua.
--
-- Each script does all or nothing: it reads the keys that decide before its first write, which shows a key of a wrong
-- type, and no field makes a command fail after that. So no HINCRBY, which a field that is no number stops: whole()
-- reads, HSET writes. What the sweep can make anew (order, tenants' sums) is written with pcall and stops nothing.
local job, texts, crashes, replies, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local held, lane, active, queue, lanes = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local turns, ring, tenants, flights = KEYS[11], KEYS[12], KEYS[13], KEYS[14]

-- Chunks that a job can have.
local MAX_CHUNKS = 65536

-- A life, in ms, in place of one that is no life: a negative one would delete the key.
local USUAL_TTL_MS = 86400000

-- Doorbells in a queue before the sweep has counted the children, and that one call may ring.
local USUAL_BELLS, MOST_BELLS = 8, 64

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- The most that Lua counts exactly.
local MOST = 9007199254740991

-- The whole number in a field, if it is one from 0 to MOST; else the other one, or 0.
local function whole(value, other)
  local number = value and #value <= 16 and string.match(value, '^%d+$') and tonumber(value)
  return number and number <= MOST and number or other or 0
end

local function sum_of(one, other)
  return math.max(0, math.min(one + other, MOST))
end

-- A refusal if a key holds another type than it should: key, type, key, type, ….
local function wrong_type(...)
  local asked = {...}
  for i = 1, #asked, 2 do
    local found = redis.call('TYPE', asked[i]).ok
    if found ~= 'none' and found ~= asked[i + 1] then
      return redis.error_reply('WRONGTYPE ' .. asked[i] .. ' is a ' .. found .. ', not a ' .. asked[i + 1])
    end
  end
end

-- The same by what reading them gave, without further commands: answer, key, type, answer, key, type, ….
local function misread(...)
  local read = {...}
  for i = 1, #read, 3 do
    if type(read[i]) == 'table' and read[i].err then return wrong_type(read[i + 1], read[i + 2]) or read[i] end
  end
end

-- The id at the end of a job's key.
local function job_id()
  return string.match(job, '[^:]*$')
end

-- Queues and tokens need no escape in JSON: keys.py and settings.py see to that.
local DOORBELL = '{"body": "[[], {}, {\\"callbacks\\": null, \\"errbacks\\": null, \\"chain\\": null, \\"chord\\": '
  .. 'null}]", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": '
  .. '"embedmill.chunk", "id": "%s", "root_id": "%s", "parent_id": null, "group": null, "retries": 0, "eta": null, '
  .. '"expires": null, "argsrepr": "", "kwargsrepr": "", "origin": "embedmill", "ignore_result": true}, "properties": '
  .. '{"correlation_id": "%s", "delivery_mode": 2, "priority": 0, "delivery_tag": "%s", "delivery_info": {"exchange": '
  .. '"", "routing_key": "%s"}}}'

-- Put doorbells into a queue, as kombu would: celery messages whose ids are tokens. Workers pop from the right: LPUSH
-- makes one wait its turn, RPUSH makes it the next one. Gives how many the lane has rung ever.
local function ring_bells(name, push, count, rung, us)
  local bells = {}
  for i = 1, count do
    local token = string.format('%d-%d', us, rung + i)
    bells[i] = string.format(DOORBELL, token, token, token, token, name)
  end
  if count > 0 then redis.call(push, name, unpack(bells)) end
  return rung + count
end

-- Doorbells that are missing in a queue, if less than half of those wanted are there.
local function missing_bells(open, wanted, there)
  local target = math.min(open, wanted)
  if there >= target or (there * 2 > wanted and there > 0) then return 0 end
  return math.min(target - there, MOST_BELLS)
end

-- What `held` says of a token.
local function read_entry(entry)
  local id, chunk, n_texts, n_tokens, born, worker, tenant = string.match(entry or '',
    '^(%S+) (%d+) (%d+) (%d+) (%d+) (%S+) %d+ %S+ %S+ (%S*)$')
  if not id then return nil end
  return {id = id, chunk = tonumber(chunk), n_texts = tonumber(n_texts), n_tokens = tonumber(n_tokens), born = born,
    worker = worker, tenant = tenant}
end

-- Whether a token's entry is of this job as it was submitted at a moment, and of this chunk.
local function is_of(mine, chunk, born)
  return mine and mine.id == string.match(job, '[^:]*$') and mine.chunk == tonumber(chunk) and mine.born == born
end

-- The moment of a job's submission, in µs, by which it is told from a later one of its id.
local function birth(value)
  return string.match(value or '', '^%d+$') or '0'
end

-- The tenant in a field, if there can be one of this name; else that of nobody in particular.
local function owner(value)
  return value and #value <= 64 and string.match(value, '^[%w._-]*$') or ''
end

-- Chunks of a job that nobody has claimed, by its record's fields.
local function count_open(next, back, n_chunks)
  local n_back = 0
  for _ in string.gmatch(back or '', '%d+') do n_back = n_back + 1 end
  return math.max(0, math.min(whole(n_chunks), MAX_CHUNKS) - whole(next)) + n_back
end

local function renew(ttl_ms)
  for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ttl_ms) end
end

-- A key that is made while the job is under way lives as long as its record.
local function keep(key)
  local ttl_ms = redis.call('PTTL', job)
  if ttl_ms > 0 then redis.call('PEXPIRE', key, ttl_ms) end
end

-- Write into a key of this job; one of a wrong type, or a stream that takes no entry any more, is begun anew.
local function put(command, key, ...)
  local outcome = redis.pcall(command, key, ...)
  if type(outcome) == 'table' and outcome.err then
    redis.call('UNLINK', key)
    redis.call(command, key, ...)
  end
end

-- A tenant with work has a turn; one that comes back begins where the lane is.
local function take_turn(tenant, clock)
  redis.pcall('ZADD', turns, 'NX', clock, tenant)
end

local COUNTERS = {'chunks', 'texts', 'tokens', 'bytes'}

-- Fields and values of a lane that holds that much more, or less with a sign of -1: chunks, texts, tokens, and the bytes
-- that the texts' vectors will take. `counts` begins with the values of COUNTERS.
local function weighed(counts, sign, ...)
  local fields, amounts = {}, {...}
  for i, name in ipairs(COUNTERS) do
    fields[2 * i - 1], fields[2 * i] = name, sum_of(whole(counts[i]), sign * amounts[i])
  end
  return fields
end

-- A full Redis refuses what may grow, unless the script has written before: so each script that drains
-- begins with a command that frees or keeps (HDEL, ZREM, PEXPIRE).

-- The job is over: what only unfinished jobs need is dropped, the rest lives for its ttl.
local function finish(state, ttl_ms)
  redis.call('ZREM', active, job_id())
  redis.call('HSET', job, 'state', state, 'left_texts', 0, 'left_tokens', 0, 'ended_ms', now_ms())
  redis.call('UNLINK', texts, crashes)
  put('XADD', events, '*', 's', state)
  renew(math.max(1, whole(ttl_ms, USUAL_TTL_MS)))
end

-- Finish an unfinished job, and take what is left of it off its lane and its tenant.
local function stop(state)
  local record = redis.call('HMGET', job, 'left_texts', 'left_tokens', 'row_bytes', 'next', 'back', 'n_chunks', 'ttl_ms',
    'tenant', 'done')
  local counts = redis.call('HMGET', lane, 'chunks', 'texts', 'tokens', 'bytes', 'open')
  local n_left, n_texts, n_tokens = math.max(0, whole(record[6]) - whole(record[9])), whole(record[1]), whole(record[2])
  local fields = weighed(counts, -1, n_left, n_texts, n_tokens, n_texts * whole(record[3]))
  fields[9], fields[10] = 'open', sum_of(whole(counts[5]), -math.min(n_left, count_open(record[4], record[5], record[6])))
  finish(state, record[7])
  redis.pcall('ZREM', ring, job_id())
  redis.call('HSET', lane, unpack(fields))
  redis.pcall('ZINCRBY', tenants, -n_tokens, owner(record[8]))
end
