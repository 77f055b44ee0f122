-- One page of the audit of a lane's unfinished jobs, oldest first: sum them up, and put those with work into their order.
-- KEYS: lane, active, turns. ARGV: prefix of jobs, prefix of the lane's rings, where the page before ended ('' begins an
-- audit), jobs a page.
-- Gives {where it ended ('' if the audit is over), {chunks, texts, tokens, bytes, open}, {tenant, tokens, …}, {job, chunks
-- that are neither done nor open, …}, jobs that cannot be read}. Jobs whose records expired or whose texts are lost are
-- forgotten.
local lane, active, turns = KEYS[1], KEYS[2], KEYS[3]
local numbers = redis.pcall('HMGET', lane, 'clock', 'turn')
local wrong = misread(numbers, lane, 'hash') or wrong_type(active, 'zset')
if wrong then return wrong end
local jobs, rings, start, max_jobs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local clock, turn = whole(numbers[1]), whole(numbers[2])
local sums, owners, uneven, n_unreadable = {0, 0, 0, 0, 0}, {}, {}, 0

local function add(id, submitted)
  local key = jobs .. id
  local record = redis.pcall('HMGET', key, 'state', 'tenant', 'next', 'back', 'n_chunks', 'left_texts', 'left_tokens',
    'row_bytes', 'created_ms')
  local n_left = redis.pcall('HLEN', key .. ':texts')
  if record.err or type(n_left) ~= 'number' then
    n_unreadable = n_unreadable + 1
    return
  end
  local tenant = owner(record[2])
  -- One without texts has lost them. A client that has them may submit it again.
  if record[1] ~= 'active' or n_left == 0 then
    redis.call('ZREM', active, id)
    redis.pcall('ZREM', rings .. tenant, id)
    return
  end
  -- Both say when it was submitted.
  if record[9] ~= submitted and whole(submitted) > 0 then redis.call('HSET', key, 'created_ms', submitted) end
  local n_texts, n_tokens, open = whole(record[6]), whole(record[7]), count_open(record[3], record[4], record[5])
  local amounts = {n_left, n_texts, n_tokens, n_texts * whole(record[8]), math.min(open, n_left)}
  for i = 1, 5 do sums[i] = sum_of(sums[i], amounts[i]) end
  owners[tenant] = sum_of(owners[tenant] or 0, n_tokens)
  if open ~= n_left then uneven[#uneven + 1], uneven[#uneven + 2] = id, n_left - open end
  if open > 0 then
    turn = turn + 1
    redis.pcall('ZADD', rings .. tenant, 'NX', turn, id)
  end
end

-- Jobs of the same millisecond are in the same page, since where it ended is a time.
local page = redis.call('ZRANGEBYSCORE', active, start == '' and '-inf' or '(' .. start, '+inf', 'WITHSCORES', 'LIMIT', 0,
  max_jobs)
local ended = ''
if #page == 2 * max_jobs then
  ended = page[#page]
  local is_there = {}
  for i = 1, #page, 2 do is_there[page[i]] = true end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', active, ended, ended, 'LIMIT', 0, 10 * max_jobs)) do
    if not is_there[id] then page[#page + 1], page[#page + 2] = id, ended end
  end
end
for i = 1, #page, 2 do add(page[i], page[i + 1]) end
local tokens = {}
for tenant, n_tokens in pairs(owners) do
  tokens[#tokens + 1], tokens[#tokens + 2] = tenant, n_tokens
  redis.pcall('ZADD', turns, 'NX', clock, tenant)
end
return {ended, sums, tokens, uneven, n_unreadable}
