-- Note which text of a chunk is embedded alone now. ARGV: token, position in the chunk, or '' for none, chunk, birth of
-- the job that it was claimed of.
-- Gives 1, or 0 if the chunk is not the token's any more, or its job is over: nothing is written then.
local token = ARGV[1]
local wrong = wrong_type(held, 'hash', job, 'hash')
if wrong then return wrong end
local mine, record = read_entry(redis.call('HGET', held, token)), redis.call('HMGET', job, 'state', 'born')
if not is_of(mine, ARGV[3], ARGV[4]) or record[1] ~= 'active' or birth(record[2]) ~= mine.born then return 0 end
if ARGV[2] == '' then
  redis.call('HDEL', held, token .. ':at')
else
  redis.call('HSET', held, token .. ':at', ARGV[2])
end
return 1
