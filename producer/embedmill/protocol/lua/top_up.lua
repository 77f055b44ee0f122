-- Ring a lane as often as its workers have use for, and measure how fast it drains.
-- KEYS: lane, queue, tenants. ARGV: doorbells that its workers have use for, most that this call rings.
-- Gives how many were rung.
local lane, queue, tenants = KEYS[1], KEYS[2], KEYS[3]
local wrong = wrong_type(lane, 'hash', queue, 'list')
if wrong then return wrong end
redis.call('PERSIST', lane)
local wanted = math.max(USUAL_BELLS, tonumber(ARGV[1]))
local numbers = redis.call('HMGET', lane, 'open', 'bells', 'wanted', 'tokens', 'drained', 'counted', 'counted_ms', 'rate')
local count = math.min(math.max(0, math.min(whole(numbers[1]), wanted) - redis.call('LLEN', queue)), tonumber(ARGV[2]))
local now = now_us()
local rung = ring_bells(queue, 'LPUSH', count, whole(numbers[2]), now)
local drained, rate = whole(numbers[5]), string.match(numbers[8] or '', '^%d+%.?%d*$')
local past_ms = math.floor(now / 1000) - whole(numbers[7], math.floor(now / 1000))
if past_ms > 0 then
  local found = math.max(0, drained - whole(numbers[6])) * 1000 / past_ms
  if found > 0 or whole(numbers[4]) > 0 then
    rate = string.format('%.1f', rate and (tonumber(rate) + found) / 2 or found)
  end
end
redis.call('HSET', lane, 'bells', rung, 'wanted', wanted, 'counted', string.format('%d', drained), 'counted_ms',
  string.format('%d', now / 1000))
if rate then redis.call('HSET', lane, 'rate', rate) end
redis.pcall('ZREMRANGEBYSCORE', tenants, '-inf', 0)
return count
