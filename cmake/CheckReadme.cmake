# SPDX-License-Identifier: MIT
# cmake -DREADME=... -DPROGRAM=... -P CheckReadme.cmake
# The README shows the program word for word, from its first #include on.
file(READ "${README}" readme)
file(READ "${PROGRAM}" program)
string(FIND "${program}" "#include" start)
if(start EQUAL -1)
  message(FATAL_ERROR "${PROGRAM} includes nothing")
endif()
string(SUBSTRING "${program}" ${start} -1 program)
string(STRIP "${program}" program)
string(FIND "${readme}" "${program}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md does not show ${PROGRAM} word for word (from its first #include on).")
endif()
