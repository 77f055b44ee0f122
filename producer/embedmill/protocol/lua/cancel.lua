-- Stop a job: a tombstone and an event stay for its ttl. Gives its state, or nil if there is no such job.
local wrong = wrong_type(job, 'hash', texts, 'hash', lane, 'hash', active, 'zset')
if wrong then return wrong end
local state = redis.call('HGET', job, 'state')
if state == 'active' then
  stop('cancelled')
  redis.call('UNLINK', replies)
  return 'cancelled'
end
return state
