# CUDA C to objects, by custom commands: CMake's own CUDA language wants to link a program first, which NVIDIA's packages on PyPI (no lib64, no
# names for the linker, NCCL elsewhere) do not always let it.  CUDA_HOME is what deploy/cuda prints.  Gives:
#
#   CUDA_FOUND, CUDA_RELEASE (13.0.88), CUDA_ARCHITECTURES_BUILT (80;90;100)
#   cuda_headers                        headers only: what the emulation needs too
#   cuda::cudart_static cuda::cublas cuda::cublasLt cuda::nccl    to link the plugin with; only where they exist
#   trireme_cuda_objects(OUT SOURCES...)
set(CUDA_HOME "" CACHE PATH "CUDA toolkit, release 12 or newer (deploy/cuda finds or installs one); empty: no CUDA")
set(CUDA_FOUND OFF)
if(NOT CUDA_HOME)
  return()
endif()
# Where CUDA was not asked for, a toolkit that does not serve is passed over.
set(CUDA_COMPLAINT FATAL_ERROR)
if(WITH_CUDA STREQUAL auto)
  set(CUDA_COMPLAINT STATUS)
endif()
if(NOT EXISTS ${CUDA_HOME}/bin/nvcc OR NOT EXISTS ${CUDA_HOME}/include/cuda_runtime_api.h)
  message(${CUDA_COMPLAINT} "CUDA_HOME=${CUDA_HOME} has no bin/nvcc or include/cuda_runtime_api.h: deploy/cuda prints a folder that has")
  return()
endif()
execute_process(COMMAND ${CUDA_HOME}/bin/nvcc --version OUTPUT_VARIABLE CUDA_SAYS RESULT_VARIABLE CUDA_FAILED)
string(REGEX MATCH ", V([0-9]+\\.[0-9]+\\.[0-9]+)" CUDA_MATCH "${CUDA_SAYS}")
set(CUDA_RELEASE ${CMAKE_MATCH_1})
if(CUDA_FAILED OR NOT CUDA_RELEASE VERSION_GREATER_EQUAL 12)
  message(${CUDA_COMPLAINT} "${CUDA_HOME}/bin/nvcc is release '${CUDA_RELEASE}'; at least 12 is needed")
  return()
endif()
set(CUDA_FOUND ON)

# Machine code for A100 (and, being of one family, Ada's 8.9), H100/H200 and B200, and PTX of the newest for what comes after.  nvcc before 12.8 knows no sm_100.
execute_process(COMMAND ${CUDA_HOME}/bin/nvcc --list-gpu-code OUTPUT_VARIABLE CUDA_SAYS)
set(CUDA_ARCHITECTURES_BUILT)
set(CUDA_GENCODE)
foreach(ARCH 80 90 100)
  if(CUDA_SAYS MATCHES "sm_${ARCH}\n")
    list(APPEND CUDA_ARCHITECTURES_BUILT ${ARCH})
    list(APPEND CUDA_GENCODE -gencode arch=compute_${ARCH},code=sm_${ARCH})
    set(CUDA_NEWEST ${ARCH})
  endif()
endforeach()
list(APPEND CUDA_GENCODE -gencode arch=compute_${CUDA_NEWEST},code=compute_${CUDA_NEWEST})
string(REPLACE ";" " " CUDA_TEXT "${CUDA_ARCHITECTURES_BUILT}")
message(STATUS "CUDA ${CUDA_RELEASE} of ${CUDA_HOME}: sm ${CUDA_TEXT}, PTX ${CUDA_NEWEST}")

# -fmad=false: as with -ffp-contract=off on the CPU, the compiler fuses nothing by itself, so that two instances of a template (tiles of other sizes)
# cannot round differently, and the emulation gives the same bits.  Fused multiply-adds are written out.
set(CUDA_FLAGS -std=c++17 -O3 -lineinfo -fmad=false -Xptxas=-v -diag-suppress=128 --Wno-deprecated-gpu-targets
  -I${PROJECT_SOURCE_DIR}
  -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-parameter,-Wno-missing-field-initializers,-ffp-contract=off,-fno-strict-aliasing
  -Xcompiler=-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
# ccache would preprocess for the host, and so miss code under #if __CUDA_ARCH__; in "depend" mode it goes by the files that nvcc lists.  No flag names the
# build folder, so that presets share what is cached.
set(CUDA_LAUNCHER)
if(CMAKE_C_COMPILER_LAUNCHER MATCHES "ccache$")
  set(CUDA_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})
endif()

add_library(cuda_headers INTERFACE)
target_include_directories(cuda_headers SYSTEM INTERFACE ${CUDA_HOME}/include)
foreach(LIB cudart_static cublas cublasLt nccl)
  find_library(CUDA_LIB_${LIB} ${LIB} HINTS ${CUDA_HOME}/lib64 ${CUDA_HOME}/lib ${CUDA_HOME}/targets/x86_64-linux/lib ${CUDA_HOME}/targets/sbsa-linux/lib)
  mark_as_advanced(CUDA_LIB_${LIB})
  if(CUDA_LIB_${LIB})
    add_library(cuda::${LIB} UNKNOWN IMPORTED)
    set_target_properties(cuda::${LIB} PROPERTIES IMPORTED_LOCATION ${CUDA_LIB_${LIB}})
    target_link_libraries(cuda::${LIB} INTERFACE cuda_headers)
  endif()
endforeach()
if(TARGET cuda::cudart_static)
  target_link_libraries(cuda::cudart_static INTERFACE -Wl,--push-state,--as-needed stdc++ -Wl,--pop-state ${CMAKE_DL_LIBS} m rt Threads::Threads)
endif()

# trireme_cuda_objects(OUT SOURCES...): sets OUT to the objects of these .cu files, for all architectures; beside each lies NAME.ptxas, what ptxas said.
# Use them in the folder (of CMake) that made them.
function(trireme_cuda_objects OUT)
  set(OBJECTS)
  foreach(SOURCE ${ARGN})
    get_filename_component(SOURCE ${SOURCE} ABSOLUTE)
    get_filename_component(NAME ${SOURCE} NAME)
    set(OBJECT ${CMAKE_CURRENT_BINARY_DIR}/nvcc/${NAME}.o)
    add_custom_command(OUTPUT ${OBJECT} BYPRODUCTS ${CMAKE_CURRENT_BINARY_DIR}/nvcc/${NAME}.ptxas
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/nvcc
      COMMAND ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 sh ${PROJECT_SOURCE_DIR}/cmake/nvcc.sh ${CMAKE_CURRENT_BINARY_DIR}/nvcc/${NAME}.ptxas
              ${CUDA_LAUNCHER} ${CUDA_HOME}/bin/nvcc ${CUDA_FLAGS} ${CUDA_GENCODE} -MD -MF ${OBJECT}.d -MT ${OBJECT} -c ${SOURCE} -o ${OBJECT}
      DEPENDS ${SOURCE} ${PROJECT_SOURCE_DIR}/cmake/nvcc.sh DEPFILE ${OBJECT}.d COMMENT "nvcc ${NAME}" VERBATIM)
    set_source_files_properties(${OBJECT} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    list(APPEND OBJECTS ${OBJECT})
  endforeach()
  set(${OUT} ${OBJECTS} PARENT_SCOPE)
endfunction()
