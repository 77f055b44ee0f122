-- One page of a sweep over a lane's unfinished jobs, oldest first: count them, and list their open chunks.
-- KEYS: lane, active, drain. ARGV: what stands before a job's id in its record, protocol version, where the page before
-- ended ('' begins a sweep), jobs a page, chunks to look at a page, chunks that a job rings ahead.
-- Gives {where it ended ('' if the sweep is over), 1 if a counter was wrong, job, chunk, claim ('' for none), …}, or
-- nothing if another sweep has begun; a chunk of -1 is a job that cannot be read. Jobs whose records expired or
-- whose texts are lost are forgotten. Of jobs of other protocol versions no chunk is listed: their workers look after them.
--
-- The counters are exact although work goes on: a job is counted once the sweep has passed its submission time, and
-- whatever changes it after that changes the sweep's sums, too (weigh in the prelude). At the end the sums replace them.
local lane, active, drain = KEYS[1], KEYS[2], KEYS[3]
local wrong = wrong_type(lane, 'hash', active, 'zset', drain, 'hash')
if wrong then return wrong end
local prefix, version, start = ARGV[1], ARGV[2], ARGV[3]
local max_jobs, max_steps, window = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local SUMS = {'swept_chunks', 'swept_texts', 'swept_tokens', 'swept_bytes'}
local sums, found, steps = {0, 0, 0, 0}, {'', 0}, 0
redis.call('PERSIST', drain)

-- A job that has fewer steps to go than this is listed in one page.
local JOB_STEPS = 500

local function note(id, chunk, claim)
  found[#found + 1], found[#found + 2], found[#found + 3] = id, chunk, claim
end

-- List the chunks of a job that were rung and are not committed. Those that are no more committed than all before them
-- are remembered as the job's low, so that a long job is not looked at from its start each time.
local function list(id, n_left, rung, low, n_chunks)
  local key, was_low, open = prefix .. id, low, {}

  local function look(from, to)
    for chunk = from, math.min(to, n_chunks, from + JOB_STEPS) - 1 do
      steps = steps + 1
      if redis.call('HEXISTS', key .. ':texts', chunk) == 1 then
        open[#open + 1] = chunk
      elseif chunk == low then
        low = chunk + 1
      end
    end
  end

  look(low, rung)
  -- It has forgotten what it rang, or was never rung: its next chunks are taken for rung.
  if #open == 0 then look(math.max(low, rung), math.max(low, rung) + window) end
  if #open == 0 and low >= n_chunks then low = 0 end
  if low ~= was_low then redis.call('HSET', key, 'low', low) end
  if #open == 0 then return end
  local held = redis.pcall('HMGET', key .. ':claims', unpack(open))
  if held.err then return note(id, -1, '') end
  for i, chunk in ipairs(open) do note(id, chunk, held[i] or '') end
end

local function count(id, submitted)
  steps = steps + 1
  local record = redis.pcall('HMGET', prefix .. id, 'state', 'v', 'left_chunks', 'left_texts', 'left_tokens', 'row_bytes',
    'rung', 'low', 'n_chunks', 'created_ms')
  if record.err then return note(id, -1, '') end
  if record[1] ~= 'active' then return redis.call('ZREM', active, id) end
  local n_left = redis.pcall('HLEN', prefix .. id .. ':texts')
  if type(n_left) ~= 'number' then return note(id, -1, '') end
  -- Its texts are lost: there is nothing to do for it. A client that has them may submit it again.
  if n_left == 0 and record[2] == version then return redis.call('ZREM', active, id) end
  -- Both say when it was submitted, and it is counted by both.
  if record[10] ~= submitted and whole(submitted) > 0 then redis.call('HSET', prefix .. id, 'created_ms', submitted) end
  local n_texts = whole(record[4])
  local amounts = {whole(record[3]), n_texts, whole(record[5]), n_texts * whole(record[6])}
  for i = 1, 4 do sums[i] = sum_of(sums[i], amounts[i]) end
  if record[2] ~= version then return end
  local n_chunks = math.min(whole(record[9], MAX_CHUNKS), MAX_CHUNKS)
  list(id, n_left, math.min(whole(record[7]), n_chunks), whole(record[8]), n_chunks)
end

if start ~= '' then
  local swept = redis.call('HMGET', drain, 'swept_ms', unpack(SUMS))
  if swept[1] ~= start then return {} end
  for i = 1, 4 do sums[i] = whole(swept[i + 1]) end
end

-- Jobs of the same millisecond are in the same page, since where it ended is a time.
local page = redis.call('ZRANGEBYSCORE', active, start == '' and '-inf' or '(' .. start, '+inf', 'WITHSCORES', 'LIMIT', 0,
  max_jobs)
local is_last = #page < 2 * max_jobs
if not is_last then
  local last, is_there = page[#page], {}
  for i = 1, #page, 2 do is_there[page[i]] = true end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', active, last, last)) do
    if not is_there[id] then page[#page + 1], page[#page + 2] = id, last end
  end
end
local ended
for i = 1, #page, 2 do
  if page[i + 1] ~= ended and steps > max_steps then
    is_last = false
    break
  end
  ended = page[i + 1]
  count(page[i], page[i + 1])
end
if not is_last then
  found[1] = ended
  redis.call('HSET', drain, 'swept_ms', ended, SUMS[1], sums[1], SUMS[2], sums[2], SUMS[3], sums[3], SUMS[4], sums[4])
  return found
end

redis.call('HDEL', drain, 'swept_ms', unpack(SUMS))
local counts = redis.call('HMGET', lane, unpack(COUNTERS))
for i, name in ipairs(COUNTERS) do
  local sum = string.format('%d', sums[i])
  if (counts[i] or '0') ~= sum then
    redis.call('HSET', lane, name, sum)
    found[2] = 1
  end
end

-- How fast the lane drains, from the end of the sweep before to that of this one.
local seen = redis.call('HMGET', drain, 'drained', 'counted', 'counted_ms', 'rate')
local now, drained = now_ms(), whole(seen[1])
local past_ms = now - whole(seen[3], now)
if past_ms > 0 then
  local rate = math.max(0, drained - whole(seen[2])) * 1000 / past_ms
  if rate > 0 or sums[3] > 0 then
    local before = tonumber(string.match(seen[4] or '', '^%d+%.?%d*$'))
    if before then rate = (before + rate) / 2 end
    redis.call('HSET', drain, 'rate', string.format('%.1f', rate))
  end
end
redis.call('HSET', drain, 'counted', string.format('%d', drained), 'counted_ms', string.format('%d', now))
return found
