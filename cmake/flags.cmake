# One INTERFACE target carries warnings, sanitizers and the include root for every target of ours.
add_library(trireme_flags INTERFACE)
target_include_directories(trireme_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
# -ffp-contract=off: a sum is the same on every instruction set only if the compiler fuses nothing by itself;
# fused multiply-adds are written out.
target_compile_definitions(trireme_flags INTERFACE _GNU_SOURCE)
target_compile_options(trireme_flags INTERFACE -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes
  -Wvla -Wundef -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/= -Wno-missing-field-initializers -fno-strict-aliasing -ffp-contract=off -fvisibility=hidden)
if(NOT SANITIZE STREQUAL "")
  # A target with the property UNSANITIZED is built without: its sources are not ours to mend, or take minutes.
  target_compile_options(trireme_flags INTERFACE
    $<$<NOT:$<BOOL:$<TARGET_PROPERTY:UNSANITIZED>>>:-fsanitize=${SANITIZE}> -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(trireme_flags INTERFACE -fsanitize=${SANITIZE})
else()
  target_compile_definitions(trireme_flags INTERFACE $<$<CONFIG:Release>:_FORTIFY_SOURCE=2>)
endif()
