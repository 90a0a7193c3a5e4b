-- Which partitions of `requests` have corrections that are still stored beside the parts, and for long?
SELECT DISTINCT arrayElement(splitByChar('-', partition_id), -1) AS partition
FROM system.parts
WHERE database = currentDatabase()
  AND table = 'requests'
  AND active
  AND startsWith(name, 'patch-')
  AND modification_time < toDateTime({before_s:UInt32})
