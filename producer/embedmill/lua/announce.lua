-- Publish model cards, in a full Redis too. KEYS: cards. ARGV: name, card, ….
redis.call('PERSIST', KEYS[1])
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
