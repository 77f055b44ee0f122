-- Put a lane's counters right by an audit, if nothing has changed since they were read.
-- KEYS: lane, tenants. ARGV: how many fields, fields, their values as they were read, values to write for the first five,
-- 1 to write the tenants anew, tenants and their tokens: name, tokens, …. Gives 1 if a counter was wrong.
local lane, tenants = KEYS[1], KEYS[2]
local wrong = wrong_type(lane, 'hash')
if wrong then return wrong end
local n = tonumber(ARGV[1])
local was_wrong = 0
local values = redis.call('HMGET', lane, unpack(ARGV, 2, 1 + n))
for i = 1, n do
  if (values[i] or '') ~= ARGV[1 + n + i] then return 0 end
end
for i = 1, 5 do
  local sum = ARGV[1 + 2 * n + i]
  if (values[i] or '0') ~= sum then
    redis.call('HSET', lane, ARGV[1 + i], sum)
    was_wrong = 1
  end
end
if ARGV[7 + 2 * n] == '1' then redis.call('UNLINK', tenants) end
for i = 8 + 2 * n, #ARGV, 2 do redis.call('ZADD', tenants, ARGV[i + 1], ARGV[i]) end
return was_wrong
