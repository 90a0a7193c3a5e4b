-- Which keys may make one call of rows received over [since, until) and of others?
{{fresh_keys}}
