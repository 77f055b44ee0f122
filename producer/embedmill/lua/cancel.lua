-- Stop a job: a tombstone and an event stay for its ttl. Gives its state, or nil if there is no such job.
local state = redis.call('HGET', job, 'state')
if state == 'active' then
  finish('cancelled')
  redis.call('UNLINK', replies)
  return 'cancelled'
end
return state
