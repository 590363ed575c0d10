/* coordinator/report.h - results as one HTML page: curves, tables, environments.  It needs nothing from outside and runs no script. Pure. */
#ifndef COORDINATOR_REPORT_H
#define COORDINATOR_REPORT_H

#include "base/json.h"
#include "base/mem.h"

/* rows: [n_files] arrays of rows (results_read), borrowed; names: what the files are called, shown where there are several. */
status report_html(const char *title, const char *const *names, json_t *const *rows, int n_files, mem_str *out);

#endif
