"""What Celery and kombu get wrong for this use, mended. ``pyproject.toml`` binds both to the versions it was seen in.

A patch goes when its test passes without it, on the versions that the next bound allows.

patch                                 seen in        test that tells
pool.SteadyPool                       Celery 5.7.0   acceptance/test_lost_work: a child dies while its worker starts
pool.mend_shared_memory               billiard 4.3   acceptance/test_lost_work: no worker leaves a folder behind
pool.mend_transport, closed channels  Celery 5.7.0   none: seen with remote control alone, which is off
pool.mend_transport, full Redis       kombu 5.7.0    integration/test_transport: a full Redis is no lost connection
message_guard.guard                   kombu 5.7.0    acceptance/test_hostile_messages
message_guard.mask_arguments          Celery 5.7.0,  unit/test_no_text_in_messages
                                      redis-py 8.1
queue_order.LaneOrder                 an option of kombu's, no patch; unit/test_lanes
"""
