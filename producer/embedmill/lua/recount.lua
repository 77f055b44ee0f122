-- Put a lane's counters right from the records of its unfinished jobs, and measure how fast it drains.
-- KEYS: lane, active, drain. ARGV: what stands before a job's id in its record, jobs that may be counted at a time.
-- Gives 1 if a counter was wrong. Jobs whose records expired are forgotten.
local lane, active, drain = KEYS[1], KEYS[2], KEYS[3]
redis.call('PERSIST', drain)

local counts = {chunks = 0, texts = 0, tokens = 0, bytes = 0}
local was_wrong = 0
if redis.call('ZCARD', active) <= tonumber(ARGV[2]) then
  for _, id in ipairs(redis.call('ZRANGE', active, 0, -1)) do
    local left = redis.pcall('HMGET', ARGV[1] .. id, 'left_chunks', 'left_texts', 'left_tokens', 'row_bytes')
    -- An error: somebody else's key, which must not stop the count of the others.
    if not left.err and left[1] then
      local n_texts = tonumber(left[2]) or 0
      counts.chunks = counts.chunks + (tonumber(left[1]) or 0)
      counts.texts = counts.texts + n_texts
      counts.tokens = counts.tokens + (tonumber(left[3]) or 0)
      counts.bytes = counts.bytes + n_texts * (tonumber(left[4]) or 0)
    elseif not left.err then
      redis.call('ZREM', active, id)
    end
  end
  for name, count in pairs(counts) do
    if (tonumber(redis.call('HGET', lane, name)) or 0) ~= count then
      redis.call('HSET', lane, name, count)
      was_wrong = 1
    end
  end
end

local seen = redis.call('HMGET', drain, 'drained', 'counted', 'counted_ms', 'rate')
local now, drained = now_ms(), tonumber(seen[1]) or 0
local past_ms = now - (tonumber(seen[3]) or now)
if past_ms > 0 then
  local rate = math.max(0, drained - (tonumber(seen[2]) or 0)) * 1000 / past_ms
  if rate > 0 or (tonumber(redis.call('HGET', lane, 'tokens')) or 0) > 0 then
    local before = tonumber(seen[4])
    if before then rate = (before + rate) / 2 end
    redis.call('HSET', drain, 'rate', string.format('%.1f', rate))
  end
end
redis.call('HSET', drain, 'counted', drained, 'counted_ms', now)
return was_wrong
