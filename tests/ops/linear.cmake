# Tests of the products, included by tests/ops/CMakeLists.txt.  Twice: on the backend as it is, and on the one whose higher levels are emulated.
trireme_test(test_linear SOURCES test_linear.c LIBS ops m)
if(TARGET ops_emulated)
  trireme_test(test_linear_emulated SOURCES test_linear.c LIBS ops_emulated m TIMEOUT 300)
endif()
