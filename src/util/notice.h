/* notice.h - an eventfd that says "look": readable from set until clear.  For threads that poll. */
#ifndef FL_UTIL_NOTICE_H
#define FL_UTIL_NOTICE_H

#include "util/err.h"

int fl_notice_open(int *fd, fl_err *err); /* cleared; closed with close() */
void fl_notice_set(int fd);               /* never blocks; -1 is nobody's */
void fl_notice_clear(int fd);             /* likewise */

#endif
