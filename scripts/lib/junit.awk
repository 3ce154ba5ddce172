# SPDX-License-Identifier: MIT
# Reads ctest's JUnit file; -v output_of_failed=1 for the output of what failed. Prints, separated
# by tabs, one line per case: pass NAME, fail NAME WHY, skip NAME REASON.
function decode(text) {
  gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text)
  gsub(/&apos;/, "'", text); gsub(/&amp;/, "\\&", text)
  return text
}
function attribute(line, name) {
  if (!match(line, " " name "=\"[^\"]*\"")) return ""
  return decode(substr(line, RSTART + length(name) + 3, RLENGTH - length(name) - 4))
}
function finish() {
  # A sanitizer speaks up when the program ends, which may be after the test was skipped.
  if (status == "run") result = "pass"
  else if (status == "disabled") { result = "skip"; reason = "disabled" }
  else if (status == "notrun" && asked_to_skip && output !~ /Sanitizer:|runtime error:/) {
    result = "skip"
    if (reason == "" && by_code) reason = last_line # a script that exits with the skip code
    if (reason == "") { result = "fail"; why = "skipped without a reason" }
  } else { result = "fail"; if (why == "") why = asked_to_skip ? "skipped, but a sanitizer reported" : status == "notrun" ? "could not be run" : "failed" }

  if (!output_of_failed) print result "\t" name (result == "fail" ? "\t" why : result == "skip" ? "\t" reason : "")
  else if (result == "fail") { print "---- " name ": " why; print output }
}
/^\t<testcase / {
  name = attribute($0, "name"); status = attribute($0, "status")
  asked_to_skip = 0; reason = ""; why = ""; output = ""; last_line = ""; by_code = 0; in_reason = 0; in_output = 0
  next
}
!in_output && /<skipped message="SKIP_/ { asked_to_skip = 1; by_code = /SKIP_RETURN_CODE/; next }
!in_output && /<(skipped|failure) message="/ { why = attribute($0, "message"); next }
/^\t\t<system-out>/ { in_output = 1; sub(/^\t\t<system-out>/, "") }
in_output {
  last = sub(/<\/system-out>$/, "")
  line = decode($0)
  if (line ~ /^\[  SKIPPED \]/) in_reason = 0
  else if (line ~ /(^|: )Skipped$/) in_reason = 1
  else if (in_reason && line != "") reason = reason (reason == "" ? "" : " ") line
  if (line != "") last_line = line
  if (length(output) < 20000) output = output line "\n"
  if (last) in_output = 0
  next
}
/^\t<\/testcase>/ { finish() }
