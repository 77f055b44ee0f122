-- Forget a job, finished or not. Gives 1 if there was one.
local wrong = wrong_type(job, 'hash', texts, 'hash', lane, 'hash', active, 'zset')
if wrong then return wrong end
local state = redis.call('HGET', job, 'state')
if state == 'active' then stop('cancelled') end
redis.call('UNLINK', job, texts, crashes, replies, events)
return state and 1 or 0
