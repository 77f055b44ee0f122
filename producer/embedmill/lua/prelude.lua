-- Stands before every script. KEYS are those of keys.Keyspace.of_job, in its order, but in announce, beat, lock and
-- recount.lua.
local job, texts, weights, claims, crashes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local replies, events, lane, active, queue, lanes = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local drain = KEYS[12]

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Job ids, queues and numbers need no escape in JSON: protocol.py and settings.py see to that.
local DOORBELL = '{"body": "[[\\"%s\\", %d], {}, {\\"callbacks\\": null, \\"errbacks\\": null, \\"chain\\": null, '
  .. '\\"chord\\": null}]", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", '
  .. '"task": "embedmill.chunk", "id": "%s", "root_id": "%s", "parent_id": null, "group": null, "retries": 0, '
  .. '"timelimit": [%s, null], "eta": null, "expires": null, "argsrepr": "", "kwargsrepr": "", "origin": "embedmill", '
  .. '"ignore_result": true}, "properties": {"correlation_id": "%s", "delivery_mode": 2, "priority": 0, '
  .. '"delivery_tag": "%s", "delivery_info": {"exchange": "", "routing_key": "%s"}}}'

-- Put a Celery message for the chunk into its queue, as kombu would. Workers pop from the right:
-- LPUSH makes it wait its turn, RPUSH makes it the next one.
local function ring(chunk, push)
  local record = redis.call('HMGET', job, 'id', 'limit_s')
  local tag = string.format('%s:%d:%d', record[1], chunk, redis.call('HINCRBY', job, 'rings', 1))
  redis.call(push, queue, string.format(DOORBELL, record[1], chunk, tag, tag, record[2], tag, tag, queue))
end

-- Whether a doorbell's id is one that this job has rung: not that of a deleted job which had the same id.
local function has_rung(token)
  local ring = tonumber(string.match(token, ':(%d+)$'))
  local rings = redis.call('HMGET', job, 'first_ring', 'rings')
  return ring and rings[1] and ring > tonumber(rings[1]) and ring <= tonumber(rings[2])
end

local function renew(ttl_ms)
  for i = 1, 7 do redis.call('PEXPIRE', KEYS[i], ttl_ms) end
end

-- A key that is made while the job is under way lives as long as its record.
local function keep(key)
  redis.call('PEXPIRE', key, redis.call('PTTL', job))
end

-- Count a loss under the text that was alone, if one was, else under its chunk.
local function lose(chunk, at)
  redis.call('HINCRBY', crashes, chunk .. (at and ':' .. at or '') .. ':lost', 1)
  keep(crashes)
end

-- Take chunks, texts and tokens, and the bytes that the texts' vectors would have taken, off the lane.
-- Not HINCRBY by -n: Redis up to 7.0 reads Lua's -0 as no integer.
local function leave_lane(n_chunks, n_texts, n_tokens)
  local row_bytes = tonumber(redis.call('HGET', job, 'row_bytes')) or 0
  redis.call('HINCRBY', lane, 'bytes', 0 - n_texts * row_bytes)
  redis.call('HINCRBY', lane, 'chunks', 0 - n_chunks)
  redis.call('HINCRBY', lane, 'texts', 0 - n_texts)
  redis.call('HINCRBY', lane, 'tokens', 0 - n_tokens)
end

-- A full Redis refuses what may grow, unless the script has written before: so each script that drains
-- begins with a command that frees or keeps (HDEL, ZREM, PEXPIRE).

-- The job is over: what only unfinished jobs need is dropped, the rest lives for its ttl.
local function finish(state)
  local left = redis.call('HMGET', job, 'left_chunks', 'left_texts', 'left_tokens', 'ttl_ms')
  redis.call('ZREM', active, redis.call('HGET', job, 'id'))
  leave_lane(left[1], left[2], left[3])
  redis.call('HSET', job, 'state', state, 'left_chunks', 0, 'left_texts', 0, 'left_tokens', 0, 'ended_ms', now_ms())
  redis.call('UNLINK', texts, weights, claims, crashes)
  redis.call('XADD', events, '*', 's', state)
  renew(left[4])
end
