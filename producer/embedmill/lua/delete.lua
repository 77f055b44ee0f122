-- Forget a job, finished or not. Gives 1 if there was one.
local state = redis.call('HGET', job, 'state')
if state == 'active' then finish('cancelled') end
redis.call('UNLINK', job, texts, weights, claims, crashes, replies, events)
return state and 1 or 0
