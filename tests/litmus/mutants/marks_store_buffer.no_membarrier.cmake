# The harvester copies without having fenced the writers.
set(definition WITHOUT_FENCE)
