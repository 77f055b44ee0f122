-- Give back a claim whose reply Redis refused for another key's sake. It counts as nothing, as no text is to blame, and is
-- not rung: the reconciler finds the chunk. ARGV: chunk, token. Gives 1, or 0 if the claim is not the token's any more.
local chunk, token = ARGV[1], ARGV[2]
local wrong = wrong_type(claims, 'hash')
if wrong then return wrong end
local claim = redis.call('HGET', claims, chunk)
if not claim or string.match(claim, '^%S+ (%S+)') ~= token then return 0 end
redis.call('HDEL', claims, chunk, chunk .. ':at')
return 1
