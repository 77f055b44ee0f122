-- Note which text of a chunk is embedded alone now. ARGV: chunk, token, position in the chunk, or '' for none.
-- Gives 1, or 0 if the claim is not the token's any more: nothing is written then.
local chunk, token = ARGV[1], ARGV[2]
local wrong = wrong_type(claims, 'hash')
if wrong then return wrong end
local claim = redis.call('HGET', claims, chunk)
if not claim or string.match(claim, '^%S+ (%S+)') ~= token then return 0 end
if ARGV[3] == '' then
  redis.call('HDEL', claims, chunk .. ':at')
else
  redis.call('HSET', claims, chunk .. ':at', ARGV[3])
end
return 1
