-- Publish model cards, in a full Redis too. KEYS: cards. ARGV: 1 to replace cards of the same names, 0 to leave those
-- that can be read; name, card, ….
local wrong = wrong_type(KEYS[1], 'hash')
if wrong then return wrong end
redis.call('PERSIST', KEYS[1])
for i = 2, #ARGV, 2 do
  local there = ARGV[1] == '0' and redis.call('HGET', KEYS[1], ARGV[i])
  if not (there and pcall(cjson.decode, there)) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
