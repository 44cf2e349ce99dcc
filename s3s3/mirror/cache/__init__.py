"""The disk cache: presigned GETs answered from a directory, which any number of processes share.

request -> front: is the signature right? -- no --> 403
                    yes -> folder: is it there? -- yes --> from disk
                                no  -> fills: one GET -> folder; meanwhile the store itself, or the file as it grows
"""
