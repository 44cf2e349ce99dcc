"""Disk cache for presigned GETs, shared by any number of processes.

presigned GET -> CacheFrontEnd: is the signature valid? -- no --> 403
                   yes -> CacheDirectory: is the object cached? -- yes --> the file
                            no -> Downloads: one GET per key into the directory. Meanwhile the client is
                                  redirected to the store, or reads the file while it is written.
"""
