-- Take a chunk for a worker.
-- ARGV: chunk, worker id, token (the Celery task's id), fingerprint, liveness prefix, version, pid of the child (for
-- people who look: it decides nothing).
-- Gives {what, …}:
--   {'over'}                      the job is done, cancelled, gone or another one by now, or the chunk is committed
--   {'held'}                      a live worker has it
--   {'version', v}                the record speaks another protocol version
--   {'fingerprint', pinned, texts, options}      not claimed: the job is pinned to another fingerprint
--   {'late', texts, options, ms since submission, ms of its deadline}      claimed, but the deadline has passed
--   {'work', texts, options, ms waited, {crash fields}}      claimed
local chunk, worker, token, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local wrong = wrong_type(job, 'hash', texts, 'hash', claims, 'hash', crashes, 'hash')
if wrong then return wrong end
local record = redis.call('HMGET', job, 'state', 'v', 'fingerprint', 'deadline_ms', 'options', 'created_ms', 'first_ring',
  'rings')
if record[1] ~= 'active' then return {'over'} end
if record[2] ~= ARGV[6] then return {'version', record[2] or ''} end
if not has_rung(token, record[7], record[8]) then return {'over'} end
local payload = redis.call('HGET', texts, chunk)
if not payload then return {'over'} end

local claim = redis.call('HGET', claims, chunk)
local holder, held
if claim then holder, held = string.match(claim, '^(%S+) (%S+)') end
local is_lost = holder and held ~= token
if is_lost and redis.call('EXISTS', ARGV[5] .. holder) == 1 then return {'held'} end
if record[3] and record[3] ~= fingerprint then return {'fingerprint', record[3], payload, record[5] or ''} end
local at = alone(chunk)
redis.call('HDEL', claims, chunk .. ':at')
if not record[3] then redis.call('HSET', job, 'fingerprint', fingerprint) end
if is_lost then lose(chunk, at) end
redis.call('HSET', claims, chunk, worker .. ' ' .. token .. ' ' .. ARGV[7])
keep(claims)

local now = now_ms()
local deadline, options = whole(record[4]), record[5] or ''
local created = whole(record[6], now)
local waited_ms = math.max(0, now - created)
if deadline > 0 and now > deadline then return {'late', payload, options, waited_ms, math.max(0, deadline - created)} end
return {'work', payload, options, waited_ms, redis.call('HGETALL', crashes)}
