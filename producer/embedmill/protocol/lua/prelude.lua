-- Stands before every script. KEYS are those of keys.Keyspace.of_job, in its order, but in announce, beat, lock, look,
-- queued, retire and survey.lua.
--
-- Each script does all or nothing: it asks for the types of its keys before its first write, and no field makes a
-- command fail after that. So no HINCRBY, which a field that is no number stops: whole() reads, HSET writes.
local job, texts, weights, claims, crashes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local replies, events, lane, active, queue, lanes = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local drain = KEYS[12]

-- Chunks that a job can have.
local MAX_CHUNKS = 65536

-- A life, in ms, in place of one that is no life: a negative one would delete the key.
local USUAL_TTL_MS = 86400000

-- Seconds that a chunk may take if its record does not say: as long as the costliest.
local USUAL_LIMIT_S = 600

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

-- Job ids, queues and numbers need no escape in JSON: protocol.py and settings.py see to that.
local DOORBELL = '{"body": "[[\\"%s\\", %d], {}, {\\"callbacks\\": null, \\"errbacks\\": null, \\"chain\\": null, '
  .. '\\"chord\\": null}]", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", '
  .. '"task": "embedmill.chunk", "id": "%s", "root_id": "%s", "parent_id": null, "group": null, "retries": 0, '
  .. '"timelimit": [%.1f, null], "eta": null, "expires": null, "argsrepr": "", "kwargsrepr": "", "origin": "embedmill", '
  .. '"ignore_result": true}, "properties": {"correlation_id": "%s", "delivery_mode": 2, "priority": 0, '
  .. '"delivery_tag": "%s", "delivery_info": {"exchange": "", "routing_key": "%s"}}}'

-- The id at the end of a job's key.
local function job_id()
  return string.match(job, '[^:]*$')
end

-- A ring's number in a field, if a billion more may follow it; else the other one, or 0.
local function ring_number(value, other)
  local number = whole(value, other)
  return number < MOST - 1000000000 and number or other or 0
end

-- Put a Celery message for the chunk into its queue, as kombu would. Workers pop from the right:
-- LPUSH makes it wait its turn, RPUSH makes it the next one.
local function ring(chunk, push)
  local record = redis.call('HMGET', job, 'first_ring', 'rings', 'limit_s')
  local number = math.max(ring_number(record[1]), ring_number(record[2], now_us())) + 1
  local limit_s = tonumber(string.match(record[3] or '', '^%d+%.?%d*$'))
  if not limit_s or limit_s < 1 or limit_s > 86400 then limit_s = USUAL_LIMIT_S end
  local tag = string.format('%s:%d:%d', job_id(), chunk, number)
  redis.call('HSET', job, 'rings', string.format('%d', number))
  redis.call(push, queue, string.format(DOORBELL, job_id(), chunk, tag, tag, limit_s, tag, tag, queue))
end

-- Whether a doorbell's id is one that this job has rung, by its record's fields: not that of a deleted job which had
-- the same id. A number of rings that is lost is any up to now.
local function has_rung(token, first_ring, rings)
  local number = whole(string.match(token, ':(%d+)$'))
  return number > ring_number(first_ring) and number <= ring_number(rings, now_us())
end

local function renew(ttl_ms)
  for i = 1, 7 do redis.call('PEXPIRE', KEYS[i], ttl_ms) end
end

-- A key that is made while the job is under way lives as long as its record.
local function keep(key)
  local ttl_ms = redis.call('PTTL', job)
  if ttl_ms > 0 then redis.call('PEXPIRE', key, ttl_ms) end
end

-- Count one more under a name of the job's crashes.
local function count_crash(name)
  redis.call('HSET', crashes, name, whole(redis.call('HGET', crashes, name)) + 1)
  keep(crashes)
end

-- The position of the text that was alone under a chunk's claim, if one was.
local function alone(chunk)
  return string.match(redis.call('HGET', claims, chunk .. ':at') or '', '^%d+$')
end

-- Count a loss under the text that was alone, if one was, else under its chunk.
local function lose(chunk, at)
  count_crash(chunk .. (at and ':' .. at or '') .. ':lost')
end

-- XADD. A stream whose last id is the last there can be takes no entry any more: another one is begun.
local function append(stream, ...)
  local outcome = redis.pcall('XADD', stream, ...)
  if type(outcome) == 'table' and outcome.err then
    redis.call('UNLINK', stream)
    redis.call('XADD', stream, ...)
  end
end

local COUNTERS = {'chunks', 'texts', 'tokens', 'bytes'}

-- Add to the lane's counters, or take off with a sign of -1: chunks, texts, tokens, and the bytes that the texts'
-- vectors will take. A sweep under way that has counted this job already (see survey.lua) is told as well.
local function weigh(sign, n_chunks, n_texts, n_tokens, row_bytes, created_ms)
  local amounts = {n_chunks, n_texts, n_tokens, n_texts * row_bytes}
  local swept = redis.call('HMGET', drain, 'swept_ms', 'swept_chunks', 'swept_texts', 'swept_tokens', 'swept_bytes')
  local is_swept = swept[1] and created_ms <= whole(swept[1])
  local counts, news, swept_news = redis.call('HMGET', lane, unpack(COUNTERS)), {}, {}
  for i, name in ipairs(COUNTERS) do
    news[2 * i - 1], news[2 * i] = name, sum_of(whole(counts[i]), sign * amounts[i])
    swept_news[2 * i - 1], swept_news[2 * i] = 'swept_' .. name, sum_of(whole(swept[i + 1]), sign * amounts[i])
  end
  redis.call('HSET', lane, unpack(news))
  if is_swept then redis.call('HSET', drain, unpack(swept_news)) end
end

-- Let the sweeps find an unfinished job, should they not.
local function find_again(created_ms)
  redis.call('ZADD', active, 'NX', whole(created_ms, now_ms()), job_id())
end

-- A full Redis refuses what may grow, unless the script has written before: so each script that drains
-- begins with a command that frees or keeps (HDEL, ZREM, PEXPIRE).

-- The job is over: what only unfinished jobs need is dropped, the rest lives for its ttl.
local function finish(state)
  redis.call('ZREM', active, job_id())
  redis.call('HSET', job, 'state', state, 'left_chunks', 0, 'left_texts', 0, 'left_tokens', 0, 'ended_ms', now_ms())
  redis.call('UNLINK', texts, weights, claims, crashes)
  append(events, '*', 's', state)
  renew(math.max(1, whole(redis.call('HGET', job, 'ttl_ms'), USUAL_TTL_MS)))
end

-- Finish an unfinished job, and take what is left of it off its lane.
local function stop(state)
  local left = redis.call('HMGET', job, 'left_chunks', 'left_texts', 'left_tokens', 'row_bytes', 'created_ms')
  finish(state)
  weigh(-1, whole(left[1]), whole(left[2]), whole(left[3]), whole(left[4]), whole(left[5]))
end
