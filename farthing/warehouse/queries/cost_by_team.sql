-- Which teams cost most over [since, until), dearest first?
{{cost_by(team)}}
