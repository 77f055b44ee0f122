"""Patches of faults in Celery and kombu. ``pyproject.toml`` limits both to the versions that have these faults.

Remove a patch when its test passes without it on every version that a new limit allows.

patch                                 seen in        test
pool.SteadyPool                       Celery 5.7.0   acceptance/test_lost_work: a child is killed while it starts
pool.mend_shared_memory               billiard 4.3   acceptance/test_lost_work: no worker leaves a folder behind
pool.mend_transport, closed channels  Celery 5.7.0   none: seen only with remote control, which is off
pool.mend_transport, full Redis       kombu 5.7.0    integration/test_transport: a full Redis is not a lost connection
message_guard.guard                   kombu 5.7.0    acceptance/test_hostile_messages
message_guard.mask_arguments          Celery 5.7.0,  unit/test_no_text_in_messages
                                      redis-py 8.1
queue_order.LaneOrder                 an option of kombu, not a patch; unit/test_lanes
"""
