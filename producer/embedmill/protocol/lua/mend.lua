-- Look at a page of a job's chunks, and give back those that are neither held nor open, as after garbage in its record.
-- ARGV: the first chunk of the page, chunks a page, texts seen in the pages before.
-- Gives {where the next page begins (-1: none), texts seen so far, chunks given back}.
local from, n_page, n_seen = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wrong = wrong_type(job, 'hash', texts, 'hash', held, 'hash', lane, 'hash')
if wrong then return wrong end
local record = redis.call('HMGET', job, 'state', 'tenant', 'next', 'back', 'n_chunks')
if record[1] ~= 'active' then return {-1, 0, 0} end
local numbers = redis.call('HMGET', lane, 'open', 'clock')
local is_known, id, last = {}, job_id(), math.min(from + n_page, MAX_CHUNKS) - 1
for _, entry in ipairs(redis.call('HVALS', held)) do
  local mine = read_entry(entry)
  if mine and mine.id == id then is_known[mine.chunk] = true end
end
local back = {}
for chunk in string.gmatch(record[4] or '', '%d+') do
  if not is_known[tonumber(chunk)] and #chunk < 6 then
    back[#back + 1], is_known[tonumber(chunk)] = chunk, true
  end
end
-- Numbers that no job has begin from the start.
local n_chunks, next, n_found = whole(record[5]), whole(record[3]), 0
if n_chunks > MAX_CHUNKS then n_chunks = 0 end
if next > MAX_CHUNKS then next = 0 end
for chunk = from, last do
  if redis.call('HEXISTS', texts, chunk) == 1 then
    n_seen = n_seen + 1
    if not is_known[chunk] and (chunk < next or chunk >= n_chunks) then
      back[#back + 1], n_found = chunk, n_found + 1
    end
  end
end
redis.call('HSET', job, 'back', table.concat(back, ','), 'next', math.min(next, n_chunks), 'n_chunks', n_chunks)
if n_found > 0 then
  redis.pcall('ZADD', ring, 'NX', 0, id)
  take_turn(owner(record[2]), whole(numbers[2]))
  redis.call('HSET', lane, 'open', sum_of(whole(numbers[1]), n_found))
end
local is_over = last >= MAX_CHUNKS - 1 or n_seen >= redis.call('HLEN', texts)
return {is_over and -1 or last + 1, n_seen, n_found}
