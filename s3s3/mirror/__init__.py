"""HTTP front ends that serve copies and create missing ones.

request -> front end: does the copy exist? -- yes --------------------------> 302 to the copy
                        no -> MissCoalescer -> queue -> worker -> MirrorCopy -> 302 to the copy, or to the source
"""
