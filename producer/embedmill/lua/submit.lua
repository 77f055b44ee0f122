-- Make a staged job visible and ring its first chunks.
-- ARGV: record (msgpack map of the fields below), weights, model and lane names, chunks to ring ahead.
-- The record: v id digest model lane options rejected n_chunks n_texts n_tokens ttl_ms unfinished_ttl_ms deadline_ms limit_s
-- and, kept by the scripts: state (active done cancelled) created_ms ended_ms done rung first_ring rings left_chunks
-- left_texts left_tokens fingerprint.
-- Gives: submitted, or same, or conflict, or unstaged (the staged texts are not whole: stage them again).
local staged = KEYS[12]
local record = cmsgpack.unpack(ARGV[1])

local digest = redis.call('HGET', job, 'digest')
if digest then
  redis.call('UNLINK', staged)
  return digest == record.digest and 'same' or 'conflict'
end
if redis.call('HLEN', staged) ~= record.n_chunks then
  redis.call('UNLINK', staged)
  return 'unstaged'
end

local now = now_ms()
for field, value in pairs(record) do redis.call('HSET', job, field, value) end
-- Rings are counted from the microsecond of submission, so that a job of the same id, deleted before, has had none of them.
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
